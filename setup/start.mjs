/** `npm start`: the demo, or with --config FILE the agent. */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';

const args = process.argv.slice(2);
const entry = args.includes('--config') ? '../dist/udp-fanout.js' : '../demo/main.ts';
const child = spawn(process.execPath, [fileURLToPath(new URL(entry, import.meta.url)), ...args], { stdio: 'inherit' });
// A terminal's Ctrl-C reaches the child by itself; what is sent to this process alone is handed on.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => child.kill('SIGTERM'));
child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
