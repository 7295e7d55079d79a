/** Says in the log what the counters say: which datagrams did not take the fast way, and why. */
import { setTicker, type Ticker } from '../clock.ts';
import type { ListenerCounters } from '../datapath/datapath.ts';
import type { Log } from '../log.ts';

export interface LossDependencies {
  readonly log: Log;
  readonly counters: () => readonly ListenerCounters[];
  /** What a reason means, in words. */
  readonly meaning: (reason: string) => string;
  readonly ticker?: Ticker;
}

const INTERVAL_MS = 10_000;
/** Whoever has not been sent to for a while has to be asked for first: no news, as long as it is not dropped. */
const ORDINARY = 'neigh_unresolved';
const TORN = 'forwarded without their later fragments';

/** Looks every 10 s and logs a line for each listener and reason that grew. */
export function watchLosses({ log, counters, meaning, ticker = setTicker }: LossDependencies): { close(): void } {
  let before: ReturnType<typeof totals> = new Map();
  const close = ticker(INTERVAL_MS, () => {
    const now = totals(counters());
    for (const [key, { row, reason, count, fate }] of now) {
      const grown = count - (before.get(key)?.count ?? 0);
      if (grown <= 0) continue;
      const means = meaning(reason);
      // What the FIB refused and the safety net could not send either is two lines.
      const isFib = means.startsWith('FIB') && fate !== TORN && !(fate === 'dropped' && row.toSafetyNet.has(reason));
      const what = isFib ? 'FIB lookup failed' : `datagrams ${fate}`;
      log.warn(what, { listener: row.listener.name, mode: row.mode, reason, datagrams: grown, meaning: means });
    }
    before = now;
  });
  return { close };
}

function totals(rows: readonly ListenerCounters[]) {
  const entries = rows.flatMap((row) => [
    ...[...row.dropped].map(([reason, count]) => ({ row, reason, count, fate: 'dropped' })),
    ...[...row.torn].map(([reason, count]) => ({ row, reason, count, fate: TORN })),
    ...[...row.toSafetyNet]
      .filter(([reason]) => reason !== ORDINARY)
      .map(([reason, count]) => ({ row, reason, count, fate: 'took the slow way' })),
  ]);
  return new Map(
    entries.map((entry) => [`${entry.row.listener.name} ${entry.row.mode} ${entry.fate} ${entry.reason}`, entry]),
  );
}
