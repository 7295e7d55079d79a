/** What the log says of datagrams that were lost, or took the slow way. */
import { expect, test } from 'vitest';
import { watchLosses } from '../../agent/observe/losses.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aListener, aLog } from '../fake/words.ts';

type Numbers = Readonly<Record<string, number>>;

function said(slow: Numbers, lost: Numbers, torn: Numbers = {}): string[] {
  const timer = new FakeTimer();
  const log = aLog();
  const counts = (of: Numbers) => new Map(Object.entries(of));
  const sums = { received: 9, forwarded: 0, bytesReceived: 0, bytesForwarded: 0 };
  const maps = {
    passed: new Map(),
    torn: counts(torn),
    toSafetyNet: counts(slow),
    dropped: counts(lost),
    downstreams: new Map(),
    gone: new Map(),
  };
  const counters = () => [{ listener: aListener(), mode: 'tc_ebpf' as const, ...sums, ...maps }];
  const meaning = (reason: string) => (/route|fib/.test(reason) ? 'FIB: no route' : reason);
  watchLosses({ log, counters, meaning, ticker: timer.every });
  timer.advance(10_000);
  return log.lines.map((line) => `${/^WARN (.*) listener=/.exec(line)?.[1]} ${/datagrams=\d+/.exec(line)}`);
}

test('what lost its later fragments is said in words of its own, whatever took them', () => {
  expect(said({}, {}, { fib_blackhole: 1 })).toEqual(['datagrams forwarded without their later fragments datagrams=1']);
});

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
