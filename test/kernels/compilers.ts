/** The BPF object by the oldest and the newest clang that Debian has, and by those between that matter. */
import { copyFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { bpfFlags, buildBpf } from '../../setup/build.mjs';
import { type AptRoot, type Architecture, architecture } from '../apt/root.ts';
import { ROOT, run } from '../programs.ts';

/** A clang and the release of Debian that has it. */
export interface Compiler {
  readonly version: number;
  readonly suite: string;
}

export const COMPILERS: readonly Compiler[] = [
  { version: 13, suite: 'bookworm' },
  { version: 14, suite: 'bookworm' },
  // The image's: Debian 13's own.
  { version: 19, suite: 'trixie' },
  { version: 22, suite: 'sid' },
];

/** Compiles the object by this machine's clang and, if `all`, by each of the list, into `folder`. */
export function compileObjects(folder: string, apt: AptRoot, cache: string, all: boolean): void {
  mkdirSync(folder, { recursive: true });
  const [, version = 'unknown'] = /clang version (\d+)/.exec(run('clang', ['--version'])) ?? [];
  buildBpf(join(folder, `clang-${version}.o`));
  if (!all) return;
  for (const compiler of COMPILERS) {
    const object = join(folder, `clang-${compiler.version}.o`);
    if (!existsSync(object)) compileBy(compiler, object, apt, cache);
  }
}

/** In a root file system of the compiler's own release: its libraries are not this machine's. */
function compileBy({ version, suite }: Compiler, object: string, apt: AptRoot, cache: string): void {
  const root = join(cache, `clang-${version}`);
  if (!existsSync(root))
    apt.bootstrap(
      suite,
      [`clang-${version}`, `llvm-${version}`, 'libbpf-dev', 'linux-libc-dev'],
      architecture() as Architecture,
      root,
    );
  const folder = join(root, 'bpf');
  mkdirSync(folder, { recursive: true });
  for (const name of readdirSync(join(ROOT, 'bpf'))) copyFileSync(join(ROOT, 'bpf', name), join(folder, name));
  const inside = [root, 'env', '-C', '/bpf'];
  run('chroot', [...inside, `clang-${version}`, ...bpfFlags('object.o')]);
  run('chroot', [...inside, `llvm-strip-${version}`, '-g', 'object.o']);
  copyFileSync(join(folder, 'object.o'), object);
}
