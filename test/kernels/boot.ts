/** What a kernel is booted from: its image, its modules as a disk, and a first root that mounts the real one. */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import type { AptRoot, Architecture, Package } from '../apt/root.ts';
import { run } from '../programs.ts';
import { isPackaged, type Kernel, type PackagedKernel } from './catalogue.ts';
import { makeDisk } from './disk.ts';
import type { Rig } from './rig.ts';
import { buildKernel } from './source.ts';

export interface Boot {
  /** As `uname -r` says. */
  readonly release: string;
  readonly image: string;
  readonly initrd: string;
  /** A disk of /lib/modules; none where everything is built in. */
  readonly modules?: string;
}

/** What the first root needs to find its disks, where the kernel has it as modules. */
const FIRST = ['virtio_pci', 'virtio_blk', 'crc32c_generic', 'ext4'];

/** So many of the newest packages are tried. */
const TRIES = 12;

/** Brings a kernel, from the cache where it is there; undefined where it is not to be had. */
export function bring(kernel: Kernel, { apt, folder: cache, own }: Rig, sourceTree?: string): Boot | undefined {
  if (!isPackaged(kernel)) {
    const built = buildKernel(kernel, apt, cache, sourceTree);
    if (!built) return undefined;
    const busybox = busyboxFor(kernel.architecture, apt, cache);
    return { ...built, initrd: firstRoot(join(own, `initrd-${kernel.name}`), busybox, []) };
  }
  const found = fetchNewest(kernel, apt, cache);
  if (!found) return undefined;
  const { folder, release } = found;
  const modules = moduleDisk(folder, release);
  const busybox = busyboxFor(kernel.architecture, apt, cache);
  const first = firstModules(join(modulesFolder(folder), release));
  return {
    release,
    image: join(folder, imageIn(folder)),
    initrd: firstRoot(join(own, `initrd-${kernel.name}`), busybox, first),
    modules,
  };
}

/** The newest kernel of the series that can be had, unpacked: some are listed that the mirror has no more. */
function fetchNewest(
  kernel: PackagedKernel,
  apt: AptRoot,
  cache: string,
): { release: string; folder: string } | undefined {
  let refusal: unknown;
  for (const { name, depends } of packagesOf(kernel, apt).slice(-TRIES).reverse()) {
    const release = name.replace('linux-image-', '');
    const folder = join(cache, `linux-${release}`);
    // Since Linux 7.0 the package is but a list of others.
    const parts = ['binary', 'modules'].map((part) => `linux-${part}-${release}`);
    try {
      unpackOnce(apt, [name, ...parts.filter((part) => depends.includes(`${part} `))], kernel.architecture, folder);
      return { release, folder };
    } catch (error) {
      refusal ??= error;
    }
  }
  if (refusal) throw refusal;
  return undefined;
}

/** The packages of the series, oldest first. */
function packagesOf({ series, flavour }: PackagedKernel, apt: AptRoot): Package[] {
  const version = series === 'newest' ? '\\d+\\.\\d+' : series.replace('.', '\\.');
  const pattern = new RegExp(`^linux-image-${version}\\.\\d[^_]*-${flavour}$`);
  const found = apt.search('linux-image-', pattern);
  return found.filter(({ name, version }) => !/~(rc|exp)/.test(version) && !/-rt-/.test(name));
}

/** Unpacks packages that are not there yet into a folder, without installing them. */
function unpackOnce(apt: AptRoot, names: readonly string[], architecture: Architecture, folder: string): void {
  const done = join(folder, '.unpacked');
  if (existsSync(done)) return;
  for (const name of names) apt.unpack(`${name}:${architecture}`, undefined, folder);
  writeFileSync(done, '');
}

function modulesFolder(folder: string): string {
  return ['usr/lib/modules', 'lib/modules'].map((path) => join(folder, path)).find(existsSync)!;
}

function imageIn(folder: string): string {
  const [path] = run('find', ['.', '-name', 'vmlinuz*'], { cwd: folder }).trim().split('\n');
  if (!path) throw new Error(`no kernel image in ${folder}`);
  return path;
}

/** The files of the modules in FIRST, each behind those that it depends on (modules.dep of depmod(8)). */
function firstModules(folder: string): string[] {
  const lines = readFileSync(join(folder, 'modules.dep'), 'utf8').split('\n');
  const wanted = FIRST.flatMap((name) => lines.filter((line) => new RegExp(`/${name}\\.ko[^/]*:`).test(line)));
  const inOrder = wanted.flatMap((line) =>
    line
      .split(/:? +|:$/)
      .filter(Boolean)
      .reverse(),
  );
  return [...new Set(inOrder)].map((file) => join(folder, file));
}

/** The modules as a disk for /lib/modules; made once. */
function moduleDisk(folder: string, release: string): string {
  const file = join(folder, 'modules.ext4');
  if (existsSync(file)) return file;
  const modules = modulesFolder(folder);
  run('depmod', ['-b', modules.replace(/\/lib\/modules$/, ''), release]);
  makeDisk(modules, `${file}.new`);
  renameSync(`${file}.new`, file);
  return file;
}

function busyboxFor(architecture: Architecture, apt: AptRoot, cache: string): string {
  const folder = join(cache, `busybox-${architecture}`);
  unpackOnce(apt, ['busybox-static'], architecture, folder);
  return ['usr/bin/busybox', 'bin/busybox'].map((path) => join(folder, path)).find(existsSync)!;
}

/** An initramfs that loads the drivers of its disks, mounts them and goes over to `init`. */
function firstRoot(folder: string, busybox: string, modules: readonly string[]): string {
  rmSync(folder, { recursive: true, force: true });
  for (const part of ['bin', 'modules', 'proc', 'sys', 'dev', 'root'])
    mkdirSync(join(folder, part), { recursive: true });
  copyFileSync(busybox, join(folder, 'bin/busybox'));
  copyFileSync(join(import.meta.dirname, 'guest/first.sh'), join(folder, 'init'));
  for (const path of [join(folder, 'bin/busybox'), join(folder, 'init')]) chmodSync(path, 0o755);
  // busybox loads none that are compressed.
  for (const [at, file] of modules.entries()) {
    const target = join(folder, 'modules', `${at}-${basename(file)}`);
    copyFileSync(file, target);
    if (file.endsWith('.xz')) run('xz', ['-d', target]);
    if (file.endsWith('.zst')) run('zstd', ['-q', '-d', '--rm', target]);
  }
  run('sh', ['-c', 'find . | cpio -o -H newc --quiet | gzip -1 > ../"$1".gz', 'sh', basename(folder)], { cwd: folder });
  return `${folder}.gz`;
}
