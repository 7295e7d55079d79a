/** What is remarked of datagrams that never met the program, on a clock that stands still. */
import { expect, test } from 'vitest';
import { LogLimiter } from '../../agent/log-limit.ts';
import { watchBypass } from '../../agent/observe/bypass.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aLog } from '../fake/words.ts';

const LINKS: Readonly<Record<number, string>> = { 1: 'lo', 2: 'eth0', 3: 'cni0' };

function rig() {
  const timer = new FakeTimer();
  const log = aLog();
  const arrivals = new Map<number, number>();
  const watch = watchBypass({
    alerts: new LogLimiter({ log, now: () => timer.now, timer: timer.set }),
    counters: () => [{ listener: { name: 'test', interfaces: ['eth0'] }, arrivals: new Map(arrivals) }],
    nameOf: (ifindex) => LINKS[ifindex],
    ticker: timer.every,
  });
  const come = (ifindex: number, count: number) => arrivals.set(ifindex, (arrivals.get(ifindex) ?? 0) + count);
  return { timer, log, watch, come };
}

test('each interface by what came since, the most first, and what is to be done', () => {
  const { timer, log, watch, come } = rig();
  come(3, 5);
  come(9, 7);
  timer.advance(10_000);
  const mend = 'name it under interfaces to have them forwarded in the kernel';
  expect(watch.remarks()).toEqual([
    `datapath(test): 12 datagrams in 10 s came past the program, by interface 9, cni0: ${mend}`,
  ]);
  come(2, 1);
  timer.advance(10_000);
  expect(watch.remarks()).toEqual([
    'datapath(test): 1 datagrams in 10 s came past the program, by eth0: doctor says who has them first there',
  ]);
  expect(log.lines).toEqual([
    `WARN datagrams came past the program: ${mend} listener="test" datagrams=12 interface="interface 9, cni0"`,
    'WARN datagrams came past the program: doctor says who has them first there listener="test" datagrams=1 interface="eth0"',
  ]);
});

test('nothing of what this host sends to itself, and no more when nothing comes', () => {
  const { timer, log, watch, come } = rig();
  come(1, 100);
  timer.advance(10_000);
  expect(watch.remarks()).toEqual([]);
  come(2, 1);
  timer.advance(10_000);
  expect(watch.remarks()).toHaveLength(1);
  timer.advance(10_000);
  expect(watch.remarks()).toEqual([]);
  expect(log.lines.at(-1)).toBe('INFO datagrams meet the program again listener="test"');
  watch.close();
  come(2, 1);
  timer.advance(60_000);
  expect(watch.remarks()).toEqual([]);
});
