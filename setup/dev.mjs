/**
 * `npm run dev [-- --config FILE]`: the agent from its sources, started anew when one of them, its config or the BPF object
 * of `npm run build` changes. Without a config it forwards on the loopback interface: dev.yaml.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { launch } from './launch.mjs';

const given = process.argv.slice(2);
const { values } = parseArgs({ args: given, options: { config: { type: 'string' } }, strict: false });
const config = typeof values.config === 'string' ? values.config : fileURLToPath(new URL('dev.yaml', import.meta.url));
const args = values.config === undefined ? ['--config', config, ...given] : given;

// What a worker thread imports, tsx does not see.
const watched = ['agent/**/*.ts', 'dist/udp_fanout.bpf.o', config].flatMap((path) => ['--include', path]);
const entry = fileURLToPath(new URL('../agent/entry.ts', import.meta.url));
launch('node_modules/tsx/dist/cli.mjs', ['watch', '--clear-screen=false', ...watched, entry, ...args], { apart: true });
