/** Third parties stay in their room, and the parts of the agent know only those they are built on. */
import { globSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const FILES = globSync('agent/**/*.ts', { cwd: ROOT });
/** What stands on the agent: the lab, and on the lab the benchmarks, the demo and the tests. */
const AROUND = globSync('{lab,bench,demo,setup}/**/*.{ts,mjs}', { cwd: ROOT });

/** Package, and the folder or file that alone may import it. */
const ROOMS: Readonly<Record<string, string>> = {
  koffi: 'agent/ffi/',
  '@kubernetes/client-node': 'agent/discovery/',
  'prom-client': 'agent/observe/',
  fastify: 'agent/observe/',
  'raw-socket': 'agent/health/',
  pino: 'agent/log.ts',
  zod: 'agent/config/',
  yaml: 'agent/config/',
};

/** A part, and the parts that it must not know. */
const WALLS: readonly (readonly [from: string, to: string])[] = [
  ['agent/config/', 'agent/datapath/'],
  ['agent/config/', 'agent/discovery/'],
  ['agent/datapath/', 'agent/discovery/'],
  ['agent/datapath/', 'agent/health/'],
  ['agent/datapath/', 'agent/observe/'],
  ['agent/datapath/', 'agent/config/'],
  ['agent/discovery/', 'agent/datapath/'],
  ['agent/discovery/', 'agent/health/'],
  ['agent/health/', 'agent/datapath/'],
  ['agent/health/', 'agent/discovery/'],
  ['agent/observe/', 'agent/datapath/tc/'],
  ['agent/observe/', 'agent/discovery/'],
  ['agent/netlink/', 'agent/datapath/'],
  ['agent/netlink/', 'agent/reachability/'],
  ['agent/reachability/', 'agent/datapath/'],
  ['agent/reachability/', 'agent/health/'],
  ['agent/reconciler.ts', 'agent/datapath/tc/'],
  ['agent/', 'lab/'],
  ['agent/', 'test/'],
  ['agent/', 'bench/'],
  ['agent/', 'demo/'],
  ['agent/', 'setup/'],
  ['lab/', 'test/'],
  ['lab/', 'bench/'],
  ['lab/', 'demo/'],
  ['bench/', 'test/'],
  ['bench/', 'demo/'],
  ['demo/', 'test/'],
  ['demo/', 'bench/'],
  ['setup/', 'lab/'],
  ['setup/', 'test/'],
];

function importsOf(file: string): string[] {
  const source = readFileSync(join(ROOT, file), 'utf8');
  return [...source.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(([, specifier]) => specifier!);
}

const resolved = (file: string, specifier: string) =>
  specifier.startsWith('.') ? relative(ROOT, join(ROOT, dirname(file), specifier)) : specifier;

test('there are imports to look at', () => {
  expect(FILES.length).toBeGreaterThan(20);
  expect(importsOf('agent/main.ts')).toContain('./reconciler.ts');
  expect(AROUND.length).toBeGreaterThan(40);
  expect(importsOf('bench/main.ts')).toContain('../lab/lab.ts');
});

test.each(FILES)('%s imports packages only in their room', (file) => {
  const packages = importsOf(file).filter((name) => !name.startsWith('.') && !name.startsWith('node:'));
  expect(packages.filter((name) => !ROOMS[name] || !file.startsWith(ROOMS[name]))).toEqual([]);
});

test.each(WALLS)('%s does not know %s', (from, to) => {
  const crossings = [...FILES, ...AROUND]
    .filter((file) => file.startsWith(from))
    .flatMap((file) =>
      importsOf(file)
        .map((specifier) => resolved(file, specifier))
        .filter((target) => target.startsWith(to))
        .map((target) => `${file} -> ${target}`),
    );
  expect(crossings).toEqual([]);
});

test('model.ts imports nothing but addresses', () => {
  expect(importsOf('agent/model.ts')).toEqual(['./address.ts']);
});

/** Files that import each other, however long the way round, types included. */
function circles(files: readonly string[], importsOf: (file: string) => readonly string[]): string[][] {
  const reached = (from: string) => {
    const seen = new Set<string>();
    const next = [...importsOf(from)];
    for (let file = next.pop(); file !== undefined; file = next.pop()) {
      if (seen.has(file)) continue;
      seen.add(file);
      next.push(...importsOf(file));
    }
    return seen;
  };
  const all = new Map(files.map((file) => [file, reached(file)]));
  const inCircles = files.filter((file) => all.get(file)!.has(file));
  return [...Map.groupBy(inCircles, (file) => inCircles.filter((other) => all.get(file)!.has(other)).join()).values()];
}

test('no file of the agent is imported by what it imports', () => {
  const imports = new Map(
    FILES.map((file) => [
      file,
      importsOf(file)
        .map((one) => resolved(file, one))
        .filter((one) => FILES.includes(one)),
    ]),
  );
  expect(circles(FILES, (file) => imports.get(file)!)).toEqual([]);
});

test('a circle is found, types or not', () => {
  const imports: Record<string, string[]> = { a: ['b'], b: ['c'], c: ['a', 'd'], d: ['e'], e: [] };
  expect(circles(Object.keys(imports), (file) => imports[file]!)).toEqual([['a', 'b', 'c']]);
});
