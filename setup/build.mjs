/** `npm run build`: the BPF object and the bundle, into dist/. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const DIST = join(ROOT, 'dist');

/** Kernel headers that differ by architecture; clang's bpf target does not look there by itself. */
const MULTIARCH = { x64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' }[process.arch];

/** Compiles bpf/udp_fanout.bpf.c into `object`. */
export function buildBpf(object) {
  const headers = `/usr/include/${MULTIARCH}`;
  const flags = ['-O2', '-g', '-target', 'bpf', '-mcpu=v3', '-Wall', '-Wextra', '-Werror'];
  if (existsSync(headers)) flags.push(`-I${headers}`);
  // A path in the debug information would make two builds of one source differ.
  flags.push('-fdebug-prefix-map=.=udp-fanout', '-c', 'udp_fanout.bpf.c', '-o', object);
  execFileSync('clang', flags, { cwd: join(ROOT, 'bpf'), stdio: ['ignore', 'inherit', 'inherit'] });
  // DWARF only; the BTF, which makes map dumps readable, stays.
  execFileSync('llvm-strip', ['-g', object]);
}

async function buildBundle() {
  const { build: bundle } = await import('esbuild');
  await bundle({
    entryPoints: { 'udp-fanout': join(ROOT, 'agent/entry.ts') },
    outdir: DIST,
    chunkNames: 'chunks/[name]-[hash]',
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
    external: ['koffi'],
    // CommonJS dependencies ask for Node's own modules by require, which ES modules lack.
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module';\nconst require = __createRequire(import.meta.url);",
    },
    logLevel: 'warning',
  });
}

export async function build() {
  rmSync(join(DIST, 'chunks'), { recursive: true, force: true });
  mkdirSync(DIST, { recursive: true });
  buildBpf(join(DIST, 'udp_fanout.bpf.o'));
  await buildBundle();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await build();
