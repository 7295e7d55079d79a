/**
 * Runs a file of this project on a Node that is new enough: `node setup/launch.mjs FILE [ARGUMENT...]`. A shell that
 * has once found the machine's own `node` does not look again after the set-up has brought another.
 */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';

const ROOT = new URL('..', import.meta.url);
/** The first that runs TypeScript as it is and that all dependencies accept. */
const WANTED = [22, 19];

/** Path of a Node that fits: the one that runs this, else the one that the set-up brought. */
export function fittingNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  const fits = major > WANTED[0] || (major === WANTED[0] && minor >= WANTED[1]);
  return fits ? process.execPath : fileURLToPath(new URL('node_modules/.bin/node', ROOT));
}

/** Runs the file and ends as it ends. */
export function launch(file, args) {
  const child = spawn(fittingNode(), [fileURLToPath(new URL(file, ROOT)), ...args], { stdio: 'inherit' });
  // A terminal's Ctrl-C reaches the child by itself; what is sent to this process alone is handed on.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) launch(process.argv[2], process.argv.slice(3));
