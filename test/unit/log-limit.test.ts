/** What is said of a trouble, and when, on a clock that stands still. */
import { describe, expect, test } from 'vitest';
import { LogLimiter } from '../../agent/log-limit.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aLog } from '../fake/words.ts';

const MINUTE = 60_000;

function rig() {
  const timer = new FakeTimer();
  const log = aLog();
  const alerts = new LogLimiter({ log, now: () => timer.now, timer: timer.set });
  const fails = (cause = 'reset', subject = 'api') =>
    alerts.raise(subject, { message: `failed: ${cause}`, cause, fields: { service: 'receivers' } });
  const mends = (subject = 'api') => alerts.resolve(subject, { message: 'well again' });
  return { timer, log, alerts, fails, mends };
}

describe('a trouble', () => {
  test('is said when it begins and when it is over', () => {
    const { log, fails, mends } = rig();
    expect([fails(), fails(), fails()]).toEqual([true, false, false]);
    mends();
    mends();
    expect(log.lines).toEqual(['WARN failed: reset service="receivers"', 'INFO well again']);
  });

  test('that comes again a second later is news again', () => {
    const { timer, log, fails, mends } = rig();
    fails();
    mends();
    timer.advance(1000);
    expect(fails()).toBe(true);
    mends();
    expect(log.lines).toHaveLength(4);
  });

  test('that lasts is said every five minutes, and each of its causes by itself', () => {
    const { timer, log, fails } = rig();
    for (let second = 0; second < 660; second++) {
      fails(second % 2 === 0 ? 'reset' : 'refused');
      timer.advance(1000);
    }
    expect(log.lines.filter((line) => line.includes('reset'))).toHaveLength(3);
    expect(log.lines.filter((line) => line.includes('refused'))).toHaveLength(3);
  });

  test('that lasts is said every five minutes though nobody complains again, as it was complained of last', () => {
    const { timer, log, fails, mends } = rig();
    fails('reset');
    timer.advance(2 * MINUTE);
    fails('refused');
    timer.advance(13 * MINUTE);
    expect(log.lines).toEqual([
      'WARN failed: reset service="receivers"',
      ...Array.from({ length: 3 }, () => 'WARN failed: refused service="receivers"'),
    ]);
    mends();
    timer.advance(60 * MINUTE);
    expect(log.lines.slice(4)).toEqual(['INFO well again']);
  });

  test('that is over and comes again is said five minutes after it came again', () => {
    const { timer, log, fails, mends } = rig();
    fails();
    timer.advance(4 * MINUTE);
    mends();
    fails();
    timer.advance(4 * MINUTE);
    expect(log.lines).toHaveLength(3);
    timer.advance(MINUTE);
    expect(log.lines).toHaveLength(4);
  });

  test('is not said again after close, nor is a new one', () => {
    const { timer, log, alerts, fails } = rig();
    fails();
    alerts.close();
    expect(fails()).toBe(false);
    timer.advance(60 * MINUTE);
    expect(log.lines).toHaveLength(1);
  });

  test('of one subject says nothing of another', () => {
    const { log, fails, mends } = rig();
    fails('reset', 'a');
    expect(fails('reset', 'b')).toBe(true);
    mends('a');
    expect(log.lines.at(-1)).toBe('INFO well again');
    expect(fails('reset', 'b')).toBe(false);
  });

  test('nobody complained of is not said to be over', () => {
    const { log, mends } = rig();
    mends();
    expect(log.lines).toEqual([]);
  });

  test('has the level that it is worth', () => {
    const { log, alerts } = rig();
    alerts.raise('host', { message: 'no', level: 'error' });
    expect(log.lines).toEqual(['ERROR no']);
  });
});

describe('what comes and goes', () => {
  test('is said three times, then summed up every five minutes, however long', () => {
    const { timer, log, fails, mends } = rig();
    for (let turn = 0; turn < 60 * 6; turn++) {
      fails();
      timer.advance(5000);
      mends();
      timer.advance(5000);
    }
    expect(log.lines.slice(0, 6)).toEqual([
      'WARN failed: reset service="receivers"',
      'INFO well again',
      'WARN failed: reset service="receivers"',
      'INFO well again',
      'WARN failed: reset service="receivers"',
      'INFO well again',
    ]);
    const sums = log.lines.filter((line) => line.includes('more_times='));
    expect(sums[0]).toBe('WARN failed: reset service="receivers" more_times=27 within="5 minutes" now="over"');
    expect(sums.length).toBeGreaterThanOrEqual(11);
    expect(log.lines.length).toBeLessThanOrEqual(6 + 2 * 12);
  });

  test('is not silent about how it ended: an outage that stays is said in the sum, and so is its end', () => {
    const { timer, log, fails, mends } = rig();
    for (let turn = 0; turn < 4; turn++) {
      mends();
      fails();
      timer.advance(1000);
    }
    for (let minute = 0; minute < 6; minute++) {
      fails();
      timer.advance(MINUTE);
    }
    expect(log.lines.at(-1)).toContain('more_times=1 within="5 minutes" now="lasts"');
    const before = log.lines.length;
    timer.advance(10 * MINUTE);
    expect(log.lines.slice(before)).toEqual(Array.from({ length: 2 }, () => 'WARN failed: reset service="receivers"'));
    mends();
    expect(log.lines.at(-1)).toBe('INFO well again');
  });

  test('is told one by one again after a quiet time', () => {
    const { timer, log, fails, mends } = rig();
    for (let turn = 0; turn < 5; turn++) {
      fails();
      mends();
    }
    timer.advance(10 * MINUTE);
    const before = log.lines.length;
    expect(fails()).toBe(true);
    mends();
    expect(log.lines).toHaveLength(before + 2);
  });

  test('is not summed up after close', () => {
    const { timer, log, alerts, fails, mends } = rig();
    for (let turn = 0; turn < 5; turn++) {
      fails();
      mends();
    }
    const before = log.lines.length;
    alerts.close();
    timer.advance(10 * MINUTE);
    expect(log.lines).toHaveLength(before);
  });
});
