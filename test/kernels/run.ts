/**
 * `npm run test:kernels [-- NAME...]`: the program and the agent on real kernels of others, in virtual machines. As root,
 * on Debian or what is made of it.
 *
 *   --smoke          three kernels, oldest, middle and newest, as continuous integration runs them
 *   --list           what there is
 *   --tests A:B      other test files than the usual
 *   --source DIR     a clean tree of sources, for the kernel of which Debian has none: 5.15-built
 *   --jobs N         so many machines at once; 1
 *   --record         write the rows of the kernels that are well into docs/KERNELS.md
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { install } from '../../setup/packages.mjs';
import { aptObstacle } from '../apt/root.ts';
import { ROOT } from '../programs.ts';
import { type Boot, bring } from './boot.ts';
import { isPackaged, KERNELS, type Kernel, SMOKE } from './catalogue.ts';
import { accelerated, runMachine } from './machine.ts';
import { HEAD, Result } from './results.ts';
import { Rig } from './rig.ts';

const NEEDED = {
  'qemu-system-x86_64': 'qemu-system-x86',
  mke2fs: 'e2fsprogs',
  cpio: 'cpio',
  xz: 'xz-utils',
  zstd: 'zstd',
  depmod: 'kmod',
};
const NEEDED_FOR_ARM = { 'qemu-system-aarch64': 'qemu-system-arm', 'aarch64-linux-gnu-g++': 'g++-aarch64-linux-gnu' };
/** The packet tables, the oracle, and a lab of the real agent. */
const TESTS = ['test/packet', 'test/e2e/every-kernel.test.ts', 'test/e2e/lacking-kernel.test.ts'];
/** What continuous integration has time for: the load, and the lab. */
const SMOKE_TESTS = TESTS.filter((file) => file !== 'test/packet');
/** How much longer everything may take than on a machine of one's own. */
const SLOWNESS = { accelerated: 2, emulated: 10 } as const;
const LIMIT_MS = { accelerated: 300_000, emulated: 1_500_000 } as const;
const DOCUMENT = join(ROOT, 'docs/KERNELS.md');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    smoke: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    record: { type: 'boolean', default: false },
    tests: { type: 'string' },
    source: { type: 'string' },
    jobs: { type: 'string', default: '1' },
  },
});
const print = (line: string) => process.stdout.write(`${line}\n`);

function chosen(): readonly Kernel[] {
  const names = positionals.length > 0 ? positionals : values.smoke ? SMOKE : KERNELS.map(({ name }) => name);
  return names.map((name) => {
    const found = KERNELS.find((kernel) => kernel.name === name);
    if (!found)
      throw new Error(`kernel "${name}": not in the list, which has ${KERNELS.map((one) => one.name).join(', ')}`);
    return found;
  });
}

function obstacle(kernels: readonly Kernel[]): string | undefined {
  if (process.getuid?.() !== 0) return 'it needs root, for file systems of other owners';
  const arm = kernels.some(({ architecture }) => architecture === 'arm64');
  return aptObstacle() ?? install({ ...NEEDED, ...(arm && NEEDED_FOR_ARM) });
}

/**
 * What a kernel is booted from, or in `result` why there is nothing. All of it is brought before the first machine runs: a
 * build takes minutes in which nobody would read what a machine says.
 */
function prepare(kernel: Kernel, rig: Rig, result: Result): Boot | undefined {
  try {
    const boot = bring(kernel, rig, values.source);
    rig.root(kernel.architecture);
    rig.project(kernel.architecture);
    if (boot) return boot;
    const isServed = isPackaged(kernel) || kernel.sources !== undefined;
    result.notToBeHad = isServed
      ? 'Debian serves none such any more'
      : 'Debian has no sources of it: want --source DIR';
  } catch (error) {
    result.obstacle = (error as Error).message;
  }
  return undefined;
}

async function runKernel(kernel: Kernel, boot: Boot, rig: Rig, result: Result): Promise<void> {
  const { architecture } = kernel;
  const speed = accelerated(architecture) ? 'accelerated' : 'emulated';
  const packaged = isPackaged(kernel) ? kernel : undefined;
  const env = {
    GUEST_TESTS: values.tests ?? (packaged?.tests ?? (values.smoke ? SMOKE_TESTS : TESTS)).join(':'),
    UDP_FANOUT_TEST_SLOWNESS: String(SLOWNESS[speed]),
    ...(packaged?.without && { GUEST_WITHOUT: packaged.without.join(':') }),
  };
  const log = join(rig.folder, 'logs', `${kernel.name}.log`);
  mkdirSync(join(rig.folder, 'logs'), { recursive: true });
  try {
    const disks = { root: rig.root(architecture), project: rig.project(architecture) };
    const parameters = packaged?.parameters;
    const machine = { architecture, boot, ...disks, parameters, env, log, limit: LIMIT_MS[speed] };
    await runMachine(machine, (word) => result.hear(word));
  } catch (error) {
    result.obstacle = (error as Error).message;
  }
}

/** Writes the rows of what went well into the document; the others stay as they are. */
function record(results: readonly Result[]): void {
  const text = readFileSync(DOCUMENT, 'utf8');
  const found = /^([\s\S]*<!-- last run -->\n)([\s\S]*)(\n<!-- end -->[\s\S]*)$/.exec(text);
  if (!found) throw new Error(`${DOCUMENT} has no place for the table: want <!-- last run --> and <!-- end -->`);
  const [, before, table = '', after] = found;
  const rows = new Map(table.split('\n').map((row) => [/^\| (\S+) \|/.exec(row)?.[1], row]));
  for (const result of results) rows.set(result.kernel, result.row());
  const inOrder = KERNELS.flatMap(({ name }) => rows.get(name) ?? []);
  writeFileSync(DOCUMENT, `${before}${[...HEAD, ...inOrder].join('\n')}${after}`);
}

async function main(): Promise<number> {
  const kernels = chosen();
  if (values.list) {
    for (const { name, why } of kernels) print(`${name.padEnd(16)} ${why}`);
    return 0;
  }
  const why = obstacle(kernels);
  if (why) {
    print(`test:kernels: ${why}`);
    return 1;
  }
  const rig = new Rig(!values.smoke);
  const runs = kernels.map((kernel) => {
    const result = new Result(kernel.name, kernel.why);
    return { kernel, result, boot: prepare(kernel, rig, result) };
  });
  print(`kernels: all is here that can be had, up to ${values.jobs} at once`);
  const waiting = runs.values();
  /** Takes the next kernel until there is none; several of these share the list. */
  const worker = async () => {
    for (const { kernel, result, boot } of waiting) {
      if (boot) await runKernel(kernel, boot, rig, result);
      print(result.line());
      for (const failure of result.failures(values.tests !== '')) print(`  FAILED ${failure}`);
      for (const name of result.skipped()) print(`  skipped ${name}`);
    }
  };
  await Promise.all(Array.from({ length: Number(values.jobs) }, worker));
  const results = runs.map(({ result }) => result);
  print(['', ...HEAD, ...results.map((result) => result.row()), ''].join('\n'));
  const isWell = (result: Result) => result.failures(values.tests !== '').length === 0;
  const skipped = results.filter(({ notToBeHad }) => notToBeHad).length;
  const well = results.filter((result) => !result.notToBeHad && isWell(result));
  const passed = well.length;
  const failed = results.length - passed - skipped;
  if (values.record) record(well);
  print(`kernels: ${passed} passed, ${failed} failed, ${skipped} skipped`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

// What runs for this one, and what it keeps for itself, goes with `exit`.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(1));
process.exitCode = await main();
