/** Datagrams of the kernel path that never met the program: by which interface they came, in the log and on /readyz. */
import { setTicker, type Ticker } from '../clock.ts';
import type { ListenerCounters } from '../datapath/datapath.ts';
import { LOOPBACK_IFINDEX } from '../ffi/libc.ts';
import type { LogLimiter } from '../log-limit.ts';
import type { Listener } from '../model.ts';

/** What this wants to know of a listener's counters. */
interface Row extends Pick<ListenerCounters, 'arrivals'> {
  readonly listener: Pick<Listener, 'name' | 'interfaces'>;
}

export interface BypassDependencies {
  readonly alerts: LogLimiter;
  readonly counters: () => readonly Row[];
  /** The name of an interface; undefined if it is gone. */
  readonly nameOf: (ifindex: number) => string | undefined;
  readonly ticker?: Ticker;
}

const INTERVAL_MS = 10_000;
const MOST_NAMED = 3;

export interface BypassWatch {
  remarks(): readonly string[];
  close(): void;
}

/** Looks every 10 s. */
export function watchBypass({ alerts, counters, nameOf, ticker = setTicker }: BypassDependencies): BypassWatch {
  let before: ReadonlyMap<string, ReadonlyMap<number, number>> = new Map();
  let remarks: readonly string[] = [];
  const close = ticker(INTERVAL_MS, () => {
    const rows = counters().flatMap(({ listener, arrivals }) => (arrivals ? [{ ...listener, arrivals }] : []));
    remarks = rows.flatMap(({ name, interfaces, arrivals }) => {
      const grown = growth(before.get(name) ?? new Map(), arrivals);
      if (grown.length === 0) {
        alerts.resolve(name, { message: 'datagrams meet the program again', fields: { listener: name } });
        return [];
      }
      const names = grown.slice(0, MOST_NAMED).map(([ifindex]) => nameOf(ifindex) ?? `interface ${ifindex}`);
      const isOurs = names.some((link) => interfaces.includes(link));
      const mend = isOurs
        ? 'doctor says who has them first there'
        : 'name it under interfaces to have them forwarded in the kernel';
      const datagrams = grown.reduce((sum, [, count]) => sum + count, 0);
      const fields = { listener: name, datagrams, interface: names.join(', ') };
      alerts.raise(name, { message: `datagrams came past the program: ${mend}`, fields, cause: fields.interface });
      return [
        `datapath(${name}): ${datagrams} datagrams in 10 s came past the program, by ${fields.interface}: ${mend}`,
      ];
    });
    before = new Map(rows.map(({ name, arrivals }) => [name, new Map(arrivals)]));
  });
  return { remarks: () => remarks, close };
}

/**
 * By how much each interface's count has grown, the largest first. But for `lo`: by it comes what this host sends to itself,
 * and no program of ours waits for that.
 */
function growth(
  before: ReadonlyMap<number, number>,
  now: ReadonlyMap<number, number>,
): readonly (readonly [number, number])[] {
  return [...now]
    .map(([ifindex, count]) => [ifindex, count - (before.get(ifindex) ?? 0)] as const)
    .filter(([ifindex, count]) => count > 0 && ifindex !== LOOPBACK_IFINDEX)
    .sort(([, a], [, b]) => b - a);
}
