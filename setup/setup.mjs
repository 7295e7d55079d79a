/**
 * `npm run setup`: everything that a checkout needs to build, run and test, on a machine with nothing but Node >= 20.
 * Plain JavaScript without dependencies, since it runs before there are any. Quick where nothing is missing.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from './build.mjs';
import { buildNative } from './native.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const SBIN = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** What is looked for, and the Debian and Ubuntu package that brings it. */
const SYSTEM = [
  { wants: 'clang', packages: ['clang'] },
  { wants: 'llvm-strip', packages: ['llvm'] },
  { wants: 'ip', packages: ['iproute2'] },
  { wants: 'tc', packages: ['iproute2'] },
  // Ubuntu brings bpftool with its kernel tools.
  { wants: 'bpftool', packages: ['bpftool', 'linux-tools-common'] },
  { wants: 'nft', packages: ['nftables'] },
  { wants: 'tcpdump', packages: ['tcpdump'] },
  { wants: 'ethtool', packages: ['ethtool'] },
  { wants: 'openssl', packages: ['openssl'] },
  { wants: 'nsenter', packages: ['util-linux'] },
  { wants: 'setpriv', packages: ['util-linux'] },
  { wants: '/usr/include/bpf/bpf_helpers.h', packages: ['libbpf-dev'] },
  { wants: '/usr/include/linux/bpf.h', packages: ['linux-libc-dev'] },
  { wants: '/usr/include/stdio.h', packages: ['libc6-dev'] },
  { wants: 'libbpf.so.1', packages: ['libbpf1'] },
  // For raw-socket.
  { wants: 'make', packages: ['make'] },
  { wants: 'g++', packages: ['g++'] },
  { wants: 'python3', packages: ['python3'] },
];

function present(wants) {
  if (wants.startsWith('/')) return existsSync(wants);
  if (wants.includes('.so')) return libraryFolders().some((folder) => existsSync(join(folder, wants)));
  const folders = [...(process.env.PATH ?? '').split(':'), ...SBIN];
  return folders.some((folder) => existsSync(join(folder, wants)));
}

function libraryFolders() {
  const multiarch = existsSync('/usr/lib') ? readdirSync('/usr/lib').filter((name) => name.includes('-linux-gnu')) : [];
  return ['/usr/lib', '/usr/lib64', '/lib64', '/usr/local/lib', ...multiarch.map((name) => join('/usr/lib', name))];
}

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: 'inherit', ...options });
  return !error && status === 0;
}

function fail(message) {
  process.stderr.write(`setup: ${message}\n`);
  process.exit(1);
}

function systemPackages() {
  const missing = SYSTEM.filter(({ wants }) => !present(wants));
  if (missing.length === 0) return;
  const names = [...new Set(missing.map(({ packages }) => packages[0]))];
  const command = `apt-get install -y --no-install-recommends ${names.join(' ')}`;
  const missed = `${missing.map(({ wants }) => wants).join(', ')} missing`;
  if (!present('apt-get')) fail(`${missed}, and there is no apt-get: install what Debian calls ${names.join(' ')}`);
  if (process.getuid() !== 0) fail(`${missed}: run as root, or first run: sudo ${command}`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  run('apt-get', ['update', '-qq'], { env });
  const install = (packages) =>
    run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...packages], { env });
  if (!install(names)) for (const { packages } of missing) packages.some((name) => install([name]));
  const still = SYSTEM.filter(({ wants }) => !present(wants));
  if (still.length > 0) fail(`${still.map(({ wants }) => wants).join(', ')} still missing after: ${command}`);
}

function npm(args, options) {
  const path = process.env.npm_execpath;
  return path?.endsWith('.js') ? run(process.execPath, [path, ...args], options) : run('npm', args, options);
}

/** npm ci, once for each content of the lock file. */
function nodeModules() {
  const stamp = join(ROOT, 'node_modules', '.setup');
  const wanted = createHash('sha256')
    .update(readFileSync(join(ROOT, 'package-lock.json')))
    .digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  // No package needs its install script, and older npms run raw-socket's without being asked.
  if (!npm(['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'])) fail('npm ci failed: see above');
  linkNode();
  writeFileSync(stamp, wanted);
}

/** npm before 11 links no command of a package that is called `node`. */
function linkNode() {
  const link = join(ROOT, 'node_modules', '.bin', 'node');
  if (!existsSync(link)) symlinkSync(`../node-linux-${process.arch}/bin/node`, link);
}

/** The sources as one hash, so that a build is made when and only when they changed. */
function sourceHash() {
  const hash = createHash('sha256');
  const add = (path) => {
    if (!existsSync(path)) return;
    if (statSync(path).isDirectory()) {
      for (const name of readdirSync(path).sort()) add(join(path, name));
      return;
    }
    hash.update(path).update(readFileSync(path));
  };
  for (const part of ['agent', 'bpf', 'setup', 'package.json', 'package-lock.json']) add(join(ROOT, part));
  return hash.digest('hex');
}

async function artifacts() {
  const stamp = join(ROOT, 'dist', '.setup');
  const wanted = sourceHash();
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  await build().catch((error) => fail(`build failed: ${error.message}`));
  writeFileSync(stamp, wanted);
}

process.env.PATH = [process.env.PATH, ...SBIN].join(':');
systemPackages();
nodeModules();
if (!buildNative(npm)) fail('the build of raw-socket failed: see above');
await artifacts();
if (!process.argv.includes('--quiet')) process.stdout.write('setup: ready\n');
