/** What `node dist/udp-fanout.js` starts. */
import { run } from './cli.ts';
import { outliveReaders } from './output.ts';

outliveReaders();
// Whatever still holds the event loop once all is closed is nothing to wait for.
process.exit(await run(process.argv.slice(2)));
