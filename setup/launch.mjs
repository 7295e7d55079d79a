/**
 * Runs a file of this project on a Node that is new enough: `node setup/launch.mjs FILE [ARGUMENT...]`. A shell that
 * has once found the machine's own `node` does not look again after the set-up has brought another.
 */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';

const ROOT = new URL('..', import.meta.url);
/** The first that runs TypeScript as it is and that all dependencies accept; `engines` of package.json. */
const OLDEST = { major: 22, minor: 19 };

/**
 * Whether this Node may run the agent.
 * @param {number} major
 * @param {number} minor
 */
export function isNewEnough(major, minor) {
  return major > OLDEST.major || (major === OLDEST.major && minor >= OLDEST.minor);
}

/** Path of a Node that fits: the one that runs this, else the one that the set-up brought. */
export function fittingNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  return isNewEnough(major, minor) ? process.execPath : fileURLToPath(new URL('node_modules/.bin/node', ROOT));
}

/**
 * Runs the file and ends as it ends. A terminal's Ctrl-C reaches the child by itself; what is sent to this process alone is
 * handed on. A child that hands signals on itself is `apart` from the terminal, so that its own child gets each once.
 * @param {string} file
 * @param {readonly string[]} args
 */
export function launch(file, args, { apart = false } = {}) {
  const child = spawn(fittingNode(), [fileURLToPath(new URL(file, ROOT)), ...args], {
    stdio: [apart ? 'ignore' : 'inherit', 'inherit', 'inherit'],
    detached: apart,
  });
  const end = () => child.kill('SIGTERM');
  process.on('SIGTERM', end);
  process.on('SIGINT', apart ? end : () => {});
  if (apart) process.on('SIGHUP', end);
  child.on('exit', (code, signal) => process.exit(code ?? 128 + (signal ? constants.signals[signal] : 0)));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) launch(process.argv[2] ?? '', process.argv.slice(3));
