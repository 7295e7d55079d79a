/**
 * A root of apt's own: it knows the suites that it is told, takes nothing of what is installed into account, and installs
 * nothing. Packages of any release and architecture are fetched and unpacked, on the mirrors of the machine's own sources.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { install, present } from '../../setup/packages.mjs';
import { run } from '../programs.ts';

/** As dpkg names them. */
export type Architecture = 'amd64' | 'arm64';

/** What `apt-cache show` says of a package. */
export interface Package {
  readonly name: string;
  readonly version: string;
  readonly depends: string;
}

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
/** What this needs besides apt, and the package that brings it. */
const NEEDS = { 'dpkg-source': 'dpkg-dev', [KEYRING]: 'debian-archive-keyring' };
/**
 * Containers of Debian have apt keep no index of its lists, which then takes half a minute of each command. Said on the
 * command line, since the machine's own settings come after a file's.
 */
const CACHED = ['-o', 'Dir::Cache::pkgcache=pkgcache.bin', '-o', 'Dir::Cache::srcpkgcache=srcpkgcache.bin'];
const DAY_MS = 86_400_000;
const byNumbers = new Intl.Collator('en', { numeric: true }).compare;

export class AptRoot {
  readonly #directory: string;
  readonly #env: Readonly<Record<string, string>>;

  /**
   * Only where there is no obstacle. Suites such as `bookworm` or `bookworm-security`, in which binary and source packages
   * are looked for; nothing is fetched yet.
   */
  constructor(directory: string, suites: readonly string[], architectures: readonly string[] = [architecture()]) {
    this.#directory = directory;
    for (const path of ['lists/partial', 'cache/archives/partial']) {
      mkdirSync(join(directory, path), { recursive: true });
    }
    const write = (name: string, text: string) => {
      writeFileSync(join(directory, name), text);
      return join(directory, name);
    };
    const settings = {
      'Dir::State': directory,
      'Dir::State::lists': join(directory, 'lists'),
      'Dir::State::status': write('status', ''),
      'Dir::Cache': join(directory, 'cache'),
      'Dir::Etc::sourcelist': write('sources.list', suites.flatMap(sourceLines).join('')),
      'Dir::Etc::sourceparts': '/dev/null',
      'Dir::Etc::preferencesparts': '/dev/null',
      'APT::Architecture': architecture(),
      // What fetches for root as another user could not write here.
      'APT::Sandbox::User': 'root',
      'Acquire::Languages': 'none',
    };
    const text = Object.entries(settings).map(([key, value]) => `${key} "${value}";\n`);
    const foreign = `APT::Architectures { ${architectures.map((one) => `"${one}";`).join(' ')} };\n`;
    this.#env = { APT_CONFIG: write('apt.conf', [...text, foreign].join('')) };
  }

  /** Fetches the lists of its suites, if those that are there are a day old. A suite that is served no more is passed over. */
  update(): void {
    const stamp = join(this.#directory, 'updated');
    if (existsSync(stamp) && Date.now() - statSync(stamp).mtimeMs < DAY_MS) return;
    run('apt-get', [...CACHED, 'update', '-qq'], { env: this.#env, mayFail: true });
    if (!readdirSync(join(this.#directory, 'lists')).some((name) => name.includes('_Packages')))
      throw new Error("none of the lists of Debian's packages could be read");
    writeFileSync(stamp, '');
  }

  /** Packages whose names begin so and match, oldest first. */
  search(beginning: string, pattern: RegExp): Package[] {
    const names = run('apt-cache', [...CACHED, 'pkgnames', beginning], { env: this.#env }).split('\n');
    const wanted = names.filter((name) => pattern.test(name));
    if (wanted.length === 0) return [];
    // Names that are only mentioned by others have nothing to show, and make it fail.
    const shown = run('apt-cache', [...CACHED, 'show', '--no-all-versions', ...wanted], {
      env: this.#env,
      mayFail: true,
    });
    const field = (text: string, name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(text)?.[1] ?? '';
    return shown
      .split('\n\n')
      .filter((text) => text.includes('Package: '))
      .map((text) => ({
        name: field(text, 'Package'),
        version: field(text, 'Version'),
        depends: field(text, 'Depends'),
      }))
      .sort((one, other) => byNumbers(one.version, other.version));
  }

  /**
   * Fetches the newest version of a package, as `name` or `name:architecture`, in a suite or in any, and unpacks it into a
   * directory; returns the version.
   */
  unpack(name: string, suite: string | undefined, into: string): string {
    const place = this.#place(name);
    const what = suite === undefined ? name : `${name}/${suite}`;
    run('apt-get', [...CACHED, 'download', '-qq', what], { env: this.#env, cwd: place });
    const [file] = readdirSync(place).filter((one) => one.endsWith('.deb'));
    if (file === undefined) throw new Error(`apt-get download ${what}: no package came`);
    mkdirSync(into, { recursive: true });
    run('dpkg-deb', ['-x', join(place, file), into]);
    rmSync(place, { recursive: true });
    return decodeURIComponent(file.split('_')[1]!);
  }

  /** Fetches the newest source of a package in a suite and unpacks it, Debian's patches applied; returns the version. */
  unpackSource(name: string, suite: string, into: string): string {
    const place = this.#place(`${name}-source`);
    run('apt-get', [...CACHED, 'source', '-qq', '--download-only', `${name}/${suite}`], { env: this.#env, cwd: place });
    const [dsc] = readdirSync(place).filter((one) => one.endsWith('.dsc'));
    if (dsc === undefined) throw new Error(`apt-get source ${name}/${suite}: no source came`);
    rmSync(into, { recursive: true, force: true });
    // apt has checked the signature of the list that its sum stands in.
    run('dpkg-source', ['--no-check', '-x', join(place, dsc), into]);
    rmSync(place, { recursive: true });
    return decodeURIComponent(dsc.slice(dsc.indexOf('_') + 1, -'.dsc'.length));
  }

  /**
   * A root file system of a suite: these packages and all that they depend on, unpacked but not configured, which needs no
   * processor of its architecture.
   */
  bootstrap(suite: string, packages: readonly string[], of: Architecture, folder: string): void {
    const place = this.#place(`${suite}-${of}`);
    mkdirSync(join(place, 'partial'));
    const options = [`Dir::Cache::archives=${place}`, `APT::Architecture=${of}`, `APT::Architectures=${of}`];
    const install = ['install', '-qq', '-y', '--download-only', '--no-install-recommends', '-t', suite];
    const wanted = ['base-files', 'dash', 'coreutils', 'libc-bin', ...packages];
    run('apt-get', [...CACHED, ...install, ...options.flatMap((one) => ['-o', one]), ...wanted], { env: this.#env });
    // Whole or not at all.
    const root = `${folder}.new`;
    rmSync(root, { recursive: true, force: true });
    mkdirSync(root, { recursive: true });
    // base-files first: it has the links from /bin to /usr/bin.
    const files = readdirSync(place).filter((name) => name.endsWith('.deb'));
    for (const file of files.sort((one, other) => rank(one) - rank(other)))
      run('dpkg-deb', ['-x', join(place, file), root]);
    for (const path of ['doc', 'man', 'locale', 'info'])
      rmSync(join(root, 'usr/share', path), { recursive: true, force: true });
    if (!existsSync(join(root, 'bin/sh'))) symlinkSync('dash', join(root, 'bin/sh'));
    rmSync(folder, { recursive: true, force: true });
    renameSync(root, folder);
    rmSync(place, { recursive: true });
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
  if (!present('apt-get')) return 'packages of Debian are fetched by apt-get, which is not on this machine';
  if (process.getuid?.() === 0 && mirror() === undefined) run('apt-get', ['update', '-qq'], { mayFail: true });
  const why = install(NEEDS);
  if (why) return why;
  return mirror() === undefined ? 'apt has no source of Debian here: DEBIAN_MIRROR may name one' : undefined;
}

const rank = (file: string) => (file.startsWith('base-files_') ? 0 : 1);

/** Lines of a sources.list for a suite; none where this machine knows no mirror that has it. */
function sourceLines(suite: string): string[] {
  const site = suite.endsWith('-security') ? mirror('Debian-Security') : mirror();
  return site === undefined
    ? []
    : ['deb', 'deb-src'].map((type) => `${type} [signed-by=${KEYRING}] ${site} ${suite} main\n`);
}

/** Where this machine gets Debian's packages, or its security updates. */
function mirror(label: 'Debian' | 'Debian-Security' = 'Debian'): string | undefined {
  const named = process.env.DEBIAN_MIRROR;
  if (named) return label === 'Debian' ? named : named.replace(/\/debian\/?$/, '/debian-security');
  const rows = run('apt-get', ['indextargets', '--format', '$(ORIGIN) $(LABEL) $(REPO_URI)', 'Created-By: Packages']);
  return new RegExp(`^Debian ${label} (\\S+)$`, 'm').exec(rows)?.[1];
}

/** This machine's own, as dpkg names it. */
export function architecture(): string {
  return run('dpkg', ['--print-architecture']).trim();
}
