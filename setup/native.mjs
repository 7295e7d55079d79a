/**
 * raw-socket's native part, built for each Node here that may run the agent: the one in node_modules/.bin, and the
 * machine's own where it is new enough. npm's install script cannot do that: it knows only the Node that runs npm, and
 * would look for headers on the network that lie in node_modules as soon as npm is done.
 */
import { existsSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isNewEnough } from './launch.mjs';

const MODULES = fileURLToPath(new URL('../node_modules', import.meta.url));
const PACKAGE = join(MODULES, 'raw-socket');
const BUILT = join(PACKAGE, 'build/Release/raw.node');
const ABIS = join(PACKAGE, 'abi');

/**
 * Where the package looks for `raw.node`, Node also finds a `raw.node.js`, which can choose. Written last: that it is
 * there says that all is done.
 */
const CHOOSER = "module.exports = require('../../abi/' + process.versions.modules + '.node');\n";

/**
 * Builds what is missing. False where a build failed.
 * @param {(args: readonly string[], options: import('node:child_process').SpawnSyncOptions) => boolean} npm runs npm and
 * tells whether that went well
 */
export function buildNative(npm) {
  const missing = headers().filter(({ abi }) => !existsSync(join(ABIS, `${abi}.node`)));
  if (missing.length === 0 && existsSync(`${BUILT}.js`)) return true;
  mkdirSync(ABIS, { recursive: true });
  for (const { abi, prefix } of missing) {
    // node-gyp takes the variable before any option. The path is in another one, so that no shell reads it.
    const env = { ...process.env, NODE_PREFIX: prefix };
    const script = 'npm_config_nodedir="$NODE_PREFIX" node-gyp rebuild > build.log 2>&1 || { cat build.log; exit 1; }';
    if (!npm(['exec', '--offline', '--loglevel=error', '-c', script], { cwd: PACKAGE, env })) return false;
    renameSync(BUILT, join(ABIS, `${abi}.node`));
  }
  rmSync(join(PACKAGE, 'build'), { recursive: true, force: true });
  mkdirSync(dirname(BUILT), { recursive: true });
  writeFileSync(`${BUILT}.js`, CHOOSER);
  return true;
}

/** The header files of the Nodes that may run the agent, one set for each ABI. */
function headers() {
  const folders = [join(MODULES, '.bin'), dirname(process.execPath), ...(process.env.PATH ?? '').split(':')];
  const nodes = folders.map((folder) => join(folder, 'node')).filter((node) => existsSync(node));
  const prefixes = new Set(nodes.map((node) => dirname(dirname(realpathSync(node)))));
  const found = [...prefixes].map((prefix) => ({ prefix, ...versionOf(prefix) }));
  return found.filter(({ abi }, index) => abi && found.findIndex((other) => other.abi === abi) === index);
}

/**
 * The ABI that the headers are for; none where there are no headers or the Node is too old for the agent.
 * @param {string} prefix
 */
function versionOf(prefix) {
  const file = join(prefix, 'include/node/node_version.h');
  const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
  /** @param {string} name */
  const number = (name) => Number(new RegExp(`#define NODE_${name}_VERSION (\\d+)`).exec(text)?.[1] ?? 0);
  return { abi: isNewEnough(number('MAJOR'), number('MINOR')) ? number('MODULE') : 0 };
}
