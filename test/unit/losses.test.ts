/** What the log says of datagrams that were lost, or took the slow way. */
import { expect, test } from 'vitest';
import { watchLosses } from '../../agent/observe/losses.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aListener, aLog } from '../fake/words.ts';

function said(slow: Readonly<Record<string, number>>, lost: Readonly<Record<string, number>>): string[] {
  const timer = new FakeTimer();
  const log = aLog();
  const counts = (of: Readonly<Record<string, number>>) => new Map(Object.entries(of));
  const sums = { received: 9, forwarded: 0, bytesReceived: 0, bytesForwarded: 0 };
  const maps = {
    passed: new Map(),
    toSafetyNet: counts(slow),
    dropped: counts(lost),
    downstreams: new Map(),
    gone: new Map(),
  };
  const counters = () => [{ listener: aListener(), mode: 'tc_ebpf' as const, ...sums, ...maps }];
  const meaning = (reason: string) => (reason === 'no_route' ? 'FIB: no route to the downstream' : reason);
  watchLosses({ log, counters, meaning, ticker: timer.every });
  timer.advance(10_000);
  return log.lines.map((line) => `${/^WARN (.*) listener=/.exec(line)?.[1]} ${/datagrams=\d+/.exec(line)}`);
}

test('what took the slow way and was lost there is said of both, by a reason of one name', () => {
  expect(said({ no_route: 9 }, { no_route: 7 })).toEqual([
    'datagrams dropped datagrams=7',
    'FIB lookup failed datagrams=9',
  ]);
});

test('what had to wait for its neighbour is no news, what was lost by it is', () => {
  expect(said({ neigh_unresolved: 9 }, { neigh_unresolved: 0 })).toEqual([]);
  expect(said({ neigh_unresolved: 9 }, { neigh_unresolved: 2 })).toEqual(['datagrams dropped datagrams=2']);
});
