/** Everything that the machines share: Debian's archive, root file systems, the project as a disk, compiled objects. */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { AptRoot, type Architecture } from '../apt/root.ts';
import { CACHE } from '../programs.ts';
import { compileObjects } from './compilers.ts';
import { makeDisk } from './disk.ts';
import { projectDisk } from './project.ts';

const FOLDER = join(CACHE, 'kernels');
/** Where kernels and their sources come from. */
const SUITES = [
  ...['bullseye', 'bookworm', 'bookworm-backports', 'trixie', 'trixie-backports', 'sid'],
  ...['bullseye-security', 'bookworm-security', 'trixie-security'],
];
/** The guest's release. */
const SUITE = 'trixie';
/** What the lab and the tests in the machine call. */
const PACKAGES = [
  ...['iproute2', 'nftables', 'ethtool', 'tcpdump', 'bpftool', 'libbpf1', 'kmod', 'procps', 'util-linux', 'mount'],
  ...['libstdc++6', 'openssl', 'sed', 'grep', 'findutils', 'hostname', 'libcap2-bin'],
];

export class Rig {
  readonly apt = new AptRoot(join(FOLDER, 'apt'), SUITES, ['amd64', 'arm64']);
  readonly #projects = new Map<Architecture, string>();
  /** What is this run's alone: two may go on at once. */
  readonly own = mkdtempSync(join(made(FOLDER), 'run-'));
  readonly #objects = join(this.own, 'objects');

  /** Compiles the object anew; by every compiler of the list if `allCompilers`. */
  constructor(allCompilers: boolean) {
    process.once('exit', () => rmSync(this.own, { recursive: true, force: true }));
    this.apt.update();
    compileObjects(this.#objects, this.apt, FOLDER, allCompilers);
  }

  /** Where kernels and logs are kept. */
  get folder(): string {
    return FOLDER;
  }

  /** A small Debian as a disk; made once. */
  root(architecture: Architecture): string {
    const file = join(FOLDER, `root-${architecture}.ext4`);
    if (existsSync(file)) return file;
    const folder = join(FOLDER, `root-${architecture}`);
    this.apt.bootstrap(SUITE, PACKAGES, architecture, folder);
    for (const path of ['project', 'lib/modules']) mkdirSync(join(folder, path), { recursive: true });
    makeDisk(folder, `${file}.new`);
    rmSync(folder, { recursive: true });
    // Whole or not at all.
    renameSync(`${file}.new`, file);
    return file;
  }

  /** This checkout as a disk; made once a run. */
  project(architecture: Architecture): string {
    const file =
      this.#projects.get(architecture) ??
      projectDisk(architecture, { cache: FOLDER, own: this.own, objects: this.#objects });
    this.#projects.set(architecture, file);
    return file;
  }
}

function made(folder: string): string {
  mkdirSync(folder, { recursive: true });
  return folder;
}
