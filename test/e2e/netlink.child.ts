/** Runs inside a network namespace for netlink.test.ts: answers questions about it over the IPC channel. */
import { type Host, openHost } from '../../agent/netlink/host.ts';
import { watchNetwork } from '../../agent/netlink/watch.ts';

type Question =
  | { readonly ask: 'call'; readonly method: Exclude<keyof Host, 'close'>; readonly argument?: unknown }
  | { readonly ask: 'watch' };

const host = openHost();
const say = (message: object) => process.send?.(message);

process.on('message', (question: Question) => {
  if (question.ask === 'watch') {
    watchNetwork({ onChange: (cause) => say({ cause }), drainMs: 20 });
    say({ answer: 'watching' });
    return;
  }
  try {
    const method = host[question.method] as (...args: unknown[]) => unknown;
    say({ answer: method(...[question.argument].flat()) });
  } catch (error) {
    say({ error: String(error) });
  }
});
