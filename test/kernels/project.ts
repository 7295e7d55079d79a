/** The project as a disk: what the tests in the machine need of this checkout, with objects of several compilers. */
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Architecture } from '../apt/root.ts';
import { ROOT, run } from '../programs.ts';
import { makeDisk } from './disk.ts';

const PARTS = [
  'agent',
  'bpf',
  'dist',
  'docs',
  'k8s',
  'lab',
  'setup',
  'test',
  'package.json',
  'README.md',
  'vitest.config.ts',
];
/** Big, and for those who build. */
const LEFT_OUT = ['@biomejs', '@typescript', '@wasm-fmt', 'typescript', 'tsx', 'bare-url', '.cache'];

export interface Folders {
  /** Kept for the next run. */
  readonly cache: string;
  /** This run's alone. */
  readonly own: string;
  /** BPF objects to try. */
  readonly objects: string;
}

/** Makes the disk and returns its path. */
export function projectDisk(architecture: Architecture, { cache, own, objects }: Folders): string {
  const folder = join(own, `project-${architecture}`);
  const file = `${folder}.ext4`;
  mkdirSync(folder);
  for (const part of PARTS) cpSync(join(ROOT, part), join(folder, part), { recursive: true });
  cpSync(objects, join(folder, 'objects'), { recursive: true });
  const modules = architecture === native() ? join(ROOT, 'node_modules') : foreignModules(architecture, cache);
  const filter = (path: string) => !LEFT_OUT.some((name) => path === join(modules, name));
  cpSync(modules, join(folder, 'node_modules'), { recursive: true, verbatimSymlinks: true, filter });
  makeDisk(folder, file);
  rmSync(folder, { recursive: true });
  return file;
}

export function native(): Architecture {
  return process.arch === 'arm64' ? 'arm64' : 'amd64';
}

/** The dependencies for another processor; raw-socket's native part is cross-compiled. */
function foreignModules(architecture: Architecture, cache: string): string {
  const folder = join(cache, `modules-${architecture}`);
  const modules = join(folder, 'node_modules');
  const stamp = join(folder, '.locked');
  const locked = readFileSync(join(ROOT, 'package-lock.json'), 'utf8');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === locked) return modules;
  const cpu = architecture === 'arm64' ? 'arm64' : 'x64';
  mkdirSync(folder, { recursive: true });
  for (const name of ['package.json', 'package-lock.json']) cpSync(join(ROOT, name), join(folder, name));
  const target = [`--cpu=${cpu}`, '--os=linux', '--libc=glibc'];
  run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', ...target], { cwd: folder });
  const node = join(modules, `node-linux-${cpu}`);
  const bin = join(modules, '.bin', 'node');
  if (!existsSync(bin)) symlinkSync(`../node-linux-${cpu}/bin/node`, bin);
  crossCompile(join(modules, 'raw-socket'), join(node, 'include/node'), join(modules, 'nan'), architecture);
  writeFileSync(stamp, locked);
  return modules;
}

/** raw-socket as setup/native.mjs leaves it, but for another processor. */
function crossCompile(folder: string, node: string, nan: string, architecture: Architecture): void {
  const compiler = architecture === 'arm64' ? 'aarch64-linux-gnu-g++' : 'x86_64-linux-gnu-g++';
  const built = join(folder, 'build/Release');
  mkdirSync(built, { recursive: true });
  const headers = [`-I${node}`, `-I${nan}`];
  const defines = ['-DNODE_GYP_MODULE_NAME=raw', '-DBUILDING_NODE_EXTENSION'];
  const flags = ['-shared', '-fPIC', '-O2', '-std=gnu++20', '-w', ...headers, ...defines];
  run(compiler, [...flags, '-o', join(built, 'raw.node'), join(folder, 'src/raw.cc')]);
}
