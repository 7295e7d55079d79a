/** `npm run build`: the BPF object and the bundle, into dist/. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const DIST = join(ROOT, 'dist');

/** Kernel headers that differ by architecture; clang's bpf target does not look there by itself. */
const MULTIARCH = `/usr/include/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`;

/** What clang is told of any BPF program of ours. */
export const BPF_FLAGS = [
  ...['-O2', '-g', '-target', 'bpf', '-mcpu=v3', '-Wall', '-Wextra', '-Werror'],
  ...(existsSync(MULTIARCH) ? [`-I${MULTIARCH}`] : []),
];

/**
 * What clang is told, in the folder of the sources.
 * @param {string} object
 */
export function bpfFlags(object) {
  // A path in the debug information would make two builds of one source differ.
  return [...BPF_FLAGS, '-fdebug-prefix-map=.=udp-fanout', '-c', 'udp_fanout.bpf.c', '-o', object];
}

/**
 * Compiles udp_fanout.bpf.c of the folder into `object`.
 * @param {string} object
 * @param {readonly string[]} flags further ones, for a build that differs
 */
export function buildBpf(object, folder = join(ROOT, 'bpf'), flags = []) {
  execFileSync('clang', [...bpfFlags(object), ...flags], { cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] });
  // DWARF only; the BTF, which makes map dumps readable, stays.
  execFileSync('llvm-strip', ['-g', object]);
  nameCompiler(object);
}

/**
 * Where the kernel refuses the object, the compiler is half of the question, and clang does not sign what it makes.
 * @param {string} object
 */
function nameCompiler(object) {
  const [compiler] = execFileSync('clang', ['--version'], { encoding: 'utf8' }).split('\n');
  const comment = `${object}.comment`;
  writeFileSync(comment, `${compiler}\0`);
  execFileSync('llvm-objcopy', [`--add-section=.comment=${comment}`, object]);
  rmSync(comment);
}

/**
 * Of the Kubernetes client only its KubeConfig is wanted: without this its package, which does not say that its modules
 * have no side effects, brings the models of every API object and an HTTP stack of its own: 1.3 MB and 18 MiB of RSS.
 * @type {import('esbuild').Plugin}
 */
const leanKubernetesClient = {
  name: 'lean-kubernetes-client',
  setup({ onResolve, onLoad, resolve }) {
    onResolve({ filter: /.*/ }, async ({ path, kind, importer, resolveDir, pluginData }) => {
      const ours = path === '@kubernetes/client-node' || importer.includes('/node_modules/@kubernetes/client-node/');
      if (!ours || pluginData === 'resolved') return undefined;
      // What it would make requests with; ours go through node:https.
      if (path === 'undici') return { path, namespace: 'unused' };
      const resolved = await resolve(path, { kind, importer, resolveDir, pluginData: 'resolved' });
      return { ...resolved, sideEffects: false };
    });
    onLoad({ filter: /.*/, namespace: 'unused' }, () => ({
      contents: 'export class Agent {} export class ProxyAgent {} export function fetch() {}',
    }));
  },
};

async function buildBundle() {
  const { build: bundle } = await import('esbuild');
  await bundle({
    entryPoints: {
      'udp-fanout': join(ROOT, 'agent/entry.ts'),
      // A worker thread starts from a file of its own.
      'udp-fanout-worker': join(ROOT, 'agent/datapath/userspace/workers/worker.ts'),
    },
    outdir: DIST,
    // Beside the entry: a module finds package.json and the BPF object from wherever it ends up.
    chunkNames: '[name]-[hash]',
    bundle: true,
    // What a config does not use is in a chunk of its own and never read.
    splitting: true,
    minify: true,
    keepNames: true,
    platform: 'node',
    target: 'node22',
    format: 'esm',
    sourcemap: false,
    // Native modules find their binaries by their own path.
    external: ['koffi', 'raw-socket'],
    plugins: [leanKubernetesClient],
    // CommonJS dependencies ask for Node's own modules by require, which ES modules lack.
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module';\nconst require = __createRequire(import.meta.url);",
    },
    logLevel: 'warning',
  });
}

export async function build() {
  mkdirSync(DIST, { recursive: true });
  // Chunks of an earlier build have other names.
  for (const name of readdirSync(DIST)) if (name.endsWith('.js')) rmSync(join(DIST, name));
  buildBpf(join(DIST, 'udp_fanout.bpf.o'));
  await buildBundle();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await build();
