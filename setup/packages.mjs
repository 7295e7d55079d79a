/**
 * What is installed on this machine, and Debian's packages that bring what is not. Plain JavaScript without dependencies,
 * as all of the set-up: it runs before there are any.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

/** Where an ordinary user's PATH does not lead. */
export const SBIN = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/**
 * True if a program is on this machine, a library (`libbpf.so.1`), or a file, where it is a path.
 * @param {string} wanted
 */
export function present(wanted) {
  if (wanted.startsWith('/')) return existsSync(wanted);
  const programs = [...(process.env.PATH ?? '').split(':'), ...SBIN];
  return (wanted.includes('.so') ? libraryFolders() : programs).some((folder) => existsSync(join(folder, wanted)));
}

function libraryFolders() {
  const multiarch = existsSync('/usr/lib') ? readdirSync('/usr/lib').filter((name) => name.includes('-linux-gnu')) : [];
  return ['/usr/lib', '/usr/lib64', '/lib64', '/usr/local/lib', ...multiarch.map((name) => join('/usr/lib', name))];
}

/**
 * Fetches by apt what is missing. `needed` has for each program, library or file the package of Debian and Ubuntu that
 * brings it, or several to try in turn. Returns why that cannot be, or undefined when all is there.
 * @param {Readonly<Record<string, string | readonly [string, ...string[]]>>} needed
 */
export function install(needed) {
  const missing = Object.entries(needed)
    .filter(([wanted]) => !present(wanted))
    .map(([wanted, packages]) => ({ wanted, packages: [packages].flat() }));
  if (missing.length === 0) return undefined;
  const names = [...new Set(missing.map(({ packages }) => packages[0] ?? ''))];
  const command = `apt-get install -y --no-install-recommends ${names.join(' ')}`;
  const missed = `${missing.map(({ wanted }) => wanted).join(', ')} missing`;
  if (!present('apt-get')) return `${missed}, and there is no apt-get: install what Debian calls ${names.join(' ')}`;
  if (process.getuid?.() !== 0) return `${missed}: run as root, or first run: sudo ${command}`;
  apt('update');
  if (!fetched(names)) for (const { packages } of missing) packages.some((name) => fetched([name]));
  const still = missing.filter(({ wanted }) => !present(wanted));
  return still.length === 0
    ? undefined
    : `${still.map(({ wanted }) => wanted).join(', ')} still missing after: ${command}`;
}

/** @param {string[]} names */
function fetched(names) {
  return apt('install', '-y', '--no-install-recommends', ...names);
}

/**
 * What it says is for people: standard output is the caller's.
 * @param {string[]} args
 */
function apt(...args) {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  return spawnSync('apt-get', ['-qq', ...args], { env, stdio: ['inherit', 2, 'inherit'] }).status === 0;
}
