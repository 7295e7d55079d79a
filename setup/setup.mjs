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
import { install, SBIN } from './packages.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** What is looked for, and the Debian and Ubuntu package that brings it. */
const SYSTEM = /** @type {const} */ ({
  clang: 'clang',
  'llvm-strip': 'llvm',
  ip: 'iproute2',
  tc: 'iproute2',
  // Ubuntu brings bpftool with its kernel tools.
  bpftool: ['bpftool', 'linux-tools-common'],
  nft: 'nftables',
  tcpdump: 'tcpdump',
  ethtool: 'ethtool',
  openssl: 'openssl',
  nsenter: 'util-linux',
  setpriv: 'util-linux',
  '/usr/include/bpf/bpf_helpers.h': 'libbpf-dev',
  '/usr/include/linux/bpf.h': 'linux-libc-dev',
  '/usr/include/stdio.h': 'libc6-dev',
  'libbpf.so.1': 'libbpf1',
  // For raw-socket.
  make: 'make',
  'g++': 'g++',
  python3: 'python3',
});

/**
 * @param {string} command
 * @param {readonly string[]} args
 * @param {import('node:child_process').SpawnSyncOptions} options
 */
function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: 'inherit', ...options });
  return !error && status === 0;
}

/** @param {string} message */
function fail(message) {
  process.stderr.write(`setup: ${message}\n`);
  process.exit(1);
}

/**
 * @param {readonly string[]} args
 * @param {import('node:child_process').SpawnSyncOptions} [options]
 */
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
  /** @param {string} path */
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
const obstacle = install(SYSTEM);
if (obstacle) fail(obstacle);
nodeModules();
if (!buildNative(npm)) fail('the build of raw-socket failed: see above');
await artifacts();
if (!process.argv.includes('--quiet')) process.stdout.write('setup: ready\n');
