/** `npm start`: the demo, or with --config FILE the agent. */
import { launch } from './launch.mjs';

const args = process.argv.slice(2);
launch(args.includes('--config') ? 'dist/udp-fanout.js' : 'demo/main.ts', args);
