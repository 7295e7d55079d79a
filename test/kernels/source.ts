/** A kernel built here from a tree of sources: small, without modules, with small.config and nothing else. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { install } from '../../setup/packages.mjs';
import type { AptRoot } from '../apt/root.ts';
import { run } from '../programs.ts';
import type { BuiltKernel } from './catalogue.ts';

const CONFIG = join(import.meta.dirname, 'small.config');
const TOOLS = { make: 'make', gcc: 'gcc', flex: 'flex', bison: 'bison', bc: 'bc', xz: 'xz-utils' };

export interface Built {
  readonly release: string;
  readonly image: string;
}

/** Builds it, once for each tree and outside of the tree; undefined where there are no sources but `tree`, and no tree. */
export function buildKernel(kernel: BuiltKernel, apt: AptRoot, cache: string, tree?: string): Built | undefined {
  const sources = kernel.sources === undefined ? tree : debianSources(kernel.sources, apt, cache);
  if (sources === undefined) return undefined;
  const folder = join(cache, `built-${kernel.name}`);
  const image = join(folder, 'arch/x86/boot/bzImage');
  const stamp = join(folder, '.built');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8').startsWith(`${sources}\n`))
    return { image, release: readFileSync(stamp, 'utf8').split('\n')[1]! };
  const why = install(TOOLS);
  if (why) throw new Error(`${kernel.name} is built from sources: ${why}`);
  mkdirSync(folder, { recursive: true });
  const release = build(sources, folder);
  writeFileSync(stamp, `${sources}\n${release}\n`);
  return { image, release };
}

/** Debian's package of sources, unpacked once. */
function debianSources(name: string, apt: AptRoot, cache: string): string {
  const folder = join(cache, name);
  const sources = join(folder, name);
  if (existsSync(sources)) return sources;
  apt.unpack(name, undefined, folder);
  run('tar', ['-xf', join(folder, `usr/src/${name}.tar.xz`), '-C', folder]);
  return sources;
}

/** Returns what `uname -r` will say. */
function build(sources: string, folder: string): string {
  const make = (...targets: readonly string[]) => run('make', ['-s', `O=${folder}`, ...targets], { cwd: sources });
  make('tinyconfig');
  const config = join(folder, '.config');
  writeFileSync(config, `${readFileSync(config, 'utf8')}\n${readFileSync(CONFIG, 'utf8')}`);
  make('olddefconfig');
  make(`-j${cpus().length}`, 'bzImage');
  return make('kernelrelease').trim();
}
