/** What `node dist/udp-fanout.js` starts. */
import { outliveReaders } from './output.ts';

// Else Node opens its debugger on a port of the host to whoever may connect. First of all, so the rest is loaded after it.
process.on('SIGUSR1', () => {});
outliveReaders();
const { run } = await import('./cli.ts');
// Whatever still holds the event loop once all is closed is nothing to wait for.
process.exit(await run(process.argv.slice(2)));
