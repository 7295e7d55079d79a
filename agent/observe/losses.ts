/** Says in the log what the counters say: which datagrams did not take the fast way, and why. */
import type { ListenerCounters } from '../datapath/datapath.ts';
import type { Log } from '../log.ts';

export interface LossDependencies {
  readonly log: Log;
  readonly counters: () => readonly ListenerCounters[];
  /** What a reason means, in words. */
  readonly meaning: (reason: string) => string;
}

const INTERVAL_MS = 10_000;

/** Looks every 10 s and logs a line for each listener and reason that grew. */
export function watchLosses(dependencies: LossDependencies): { close(): void } {
  let before = totals(dependencies.counters());
  const timer = setInterval(() => {
    const now = totals(dependencies.counters());
    for (const [key, { row, reason, count, fate }] of now) {
      const grown = count - (before.get(key)?.count ?? 0);
      if (grown <= 0) continue;
      const meaning = dependencies.meaning(reason);
      const what = meaning.startsWith('FIB') ? 'FIB lookup failed' : `datagrams ${fate}`;
      dependencies.log.warn(what, { listener: row.listener.name, mode: row.mode, reason, datagrams: grown, meaning });
    }
    before = now;
  }, INTERVAL_MS).unref();
  return { close: () => clearInterval(timer) };
}

function totals(rows: readonly ListenerCounters[]) {
  const entries = rows.flatMap((row) => [
    ...[...row.dropped].map(([reason, count]) => ({ row, reason, count, fate: 'dropped' })),
    ...[...row.toStack].map(([reason, count]) => ({ row, reason, count, fate: 'left to the stack' })),
  ]);
  return new Map(entries.map((entry) => [`${entry.row.listener.id} ${entry.row.mode} ${entry.reason}`, entry]));
}
