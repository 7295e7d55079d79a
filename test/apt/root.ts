/**
 * A root of apt's own: it knows the suites that it is told, takes nothing of what is installed into account, and installs
 * nothing. Packages are fetched and unpacked below it, without root's rights and whatever this machine's release is.
 */
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { has, run } from '../image/commands.ts';

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
/** What this needs besides apt, and the package that brings it. */
const NEEDS = [
  ['dpkg-source', 'dpkg-dev'],
  [KEYRING, 'debian-archive-keyring'],
] as const;

export class AptRoot {
  readonly #directory: string;
  readonly #env: Readonly<Record<string, string>>;

  /** Only where there is no obstacle. Suites such as `bookworm`, in which binary and source packages are looked for; nothing is fetched yet. */
  constructor(directory: string, suites: readonly string[]) {
    this.#directory = directory;
    for (const path of ['lists/partial', 'cache/archives/partial']) {
      mkdirSync(join(directory, path), { recursive: true });
    }
    const write = (name: string, text: string) => {
      writeFileSync(join(directory, name), text);
      return join(directory, name);
    };
    const lines = suites.flatMap((suite) =>
      ['deb', 'deb-src'].map((type) => `${type} [signed-by=${KEYRING}] ${mirror()} ${suite} main\n`),
    );
    const settings = {
      'Dir::State': directory,
      'Dir::State::lists': join(directory, 'lists'),
      'Dir::State::status': write('status', ''),
      'Dir::Cache': join(directory, 'cache'),
      'Dir::Etc::sourcelist': write('sources.list', lines.join('')),
      'Dir::Etc::sourceparts': '-',
      'APT::Architecture': architecture(),
      // What fetches for root as another user could not write here.
      'APT::Sandbox::User': 'root',
      'Acquire::Languages': 'none',
    };
    const text = Object.entries(settings).map(([key, value]) => `${key} "${value}";\n`);
    this.#env = { APT_CONFIG: write('apt.conf', text.join('')) };
  }

  /** Fetches the lists of its suites. */
  update(): void {
    run('apt-get', ['update', '-qq'], { env: this.#env });
  }

  /** Fetches the newest version of a package in a suite and unpacks it into a directory; returns the version. */
  unpack(name: string, suite: string, into: string): string {
    const place = this.#place(name);
    run('apt-get', ['download', '-qq', `${name}/${suite}`], { env: this.#env, cwd: place });
    const [file] = readdirSync(place).filter((one) => one.endsWith('.deb'));
    if (file === undefined) throw new Error(`apt-get download ${name}/${suite}: no package came`);
    mkdirSync(into, { recursive: true });
    run('dpkg-deb', ['-x', join(place, file), into]);
    rmSync(place, { recursive: true });
    return decodeURIComponent(file.split('_')[1]!);
  }

  /** Fetches the newest source of a package in a suite and unpacks it, Debian's patches applied; returns the version. */
  unpackSource(name: string, suite: string, into: string): string {
    const place = this.#place(`${name}-source`);
    run('apt-get', ['source', '-qq', '--download-only', `${name}/${suite}`], { env: this.#env, cwd: place });
    const [dsc] = readdirSync(place).filter((one) => one.endsWith('.dsc'));
    if (dsc === undefined) throw new Error(`apt-get source ${name}/${suite}: no source came`);
    rmSync(into, { recursive: true, force: true });
    // apt has checked the signature of the list that its sum stands in.
    run('dpkg-source', ['--no-check', '-x', join(place, dsc), into]);
    rmSync(place, { recursive: true });
    return decodeURIComponent(dsc.slice(dsc.indexOf('_') + 1, -'.dsc'.length));
  }

  /** Frees what only further fetches would need. */
  clear(): void {
    rmSync(this.#directory, { recursive: true });
  }

  /** A directory of its own, so that what comes can be told from what was there. */
  #place(name: string): string {
    const place = join(this.#directory, name);
    rmSync(place, { recursive: true, force: true });
    mkdirSync(place);
    return place;
  }
}

/** Why there can be no such root on this machine; undefined if there can. What is missing is installed where that can be. */
export function aptObstacle(): string | undefined {
  if (!has('apt-get')) return 'packages of Debian are fetched by apt-get, which is not on this machine';
  const missing = NEEDS.filter(([file]) => !isThere(file));
  const isRoot = process.getuid?.() === 0;
  if (isRoot && (missing.length > 0 || mirror() === undefined)) run('apt-get', ['update', '-qq']);
  if (missing.length > 0) {
    const names = missing.map(([, name]) => name);
    const install = ['install', '-y', '-qq', '--no-install-recommends', ...names];
    if (!isRoot) return `${missing.map(([file]) => file).join(', ')} missing: sudo apt-get install ${names.join(' ')}`;
    run('apt-get', install, { env: { DEBIAN_FRONTEND: 'noninteractive' } });
  }
  if (mirror() === undefined) return 'apt has no source of Debian here: DEBIAN_MIRROR may name one';
  return undefined;
}

function isThere(file: string): boolean {
  return file.startsWith('/') ? existsSync(file) : has(file);
}

/** Where this machine gets Debian's packages. */
function mirror(): string | undefined {
  if (process.env.DEBIAN_MIRROR) return process.env.DEBIAN_MIRROR;
  const rows = run('apt-get', ['indextargets', '--format', '$(ORIGIN) $(LABEL) $(REPO_URI)', 'Created-By: Packages']);
  return /^Debian Debian (\S+)$/m.exec(rows)?.[1];
}

function architecture(): string {
  return run('dpkg', ['--print-architecture']).trim();
}
