/** The agent's life: errors that it outlives, and how it ends. */
import { describe, expect, test } from 'vitest';
import type { ListenerCounters } from '../../agent/datapath/datapath.ts';
import { Lifetime } from '../../agent/lifetime.ts';
import { watchLosses } from '../../agent/observe/losses.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aListener, aLog } from '../fake/words.ts';

function rig() {
  const timer = new FakeTimer();
  const log = aLog();
  const life = new Lifetime({ log, now: () => timer.now, timer: timer.set, ticker: timer.every });
  const said = () => log.lines.filter((line) => !line.startsWith('DEBUG'));
  return { timer, log, life, said };
}

const fails = () => {
  throw new Error('no');
};

describe('an error', () => {
  test('in a ticker is said once, counted each time, and no end of its ticks', () => {
    const { timer, life, said } = rig();
    let ticks = 0;
    life.part('config').ticker(1000, () => {
      if (++ticks < 4) fails();
    });
    timer.advance(3500);
    expect([ticks, life.errors.get('config')]).toEqual([3, 3]);
    expect(said()).toEqual(['ERROR internal error where="config" error="no"']);
    timer.advance(1000);
    expect(said().at(-1)).toBe('INFO internal error is over where="config"');
    timer.advance(10_000);
    expect([ticks, life.errors.get('config')]).toEqual([14, 3]);
  });

  test('in a timer or a callback goes no further, and what is no Error is one too', () => {
    const { timer, life, said } = rig();
    const { timer: set, guard } = life.part('health');
    set(10, fails);
    timer.advance(10);
    const callback = guard((word: string) => {
      throw word;
    });
    expect(() => callback('odd')).not.toThrow();
    expect([...life.errors]).toEqual([['health', 2]]);
    expect(said().at(-1)).toBe('ERROR internal error where="health" error="odd"');
  });

  test('of one part says nothing of another', () => {
    const { life } = rig();
    life.part('netlink').guard(fails)();
    life.part('discovery').onError(new Error('not loaded'));
    life.part('health').guard(() => {})();
    expect([...life.errors]).toEqual([
      ['netlink', 1],
      ['discovery', 1],
    ]);
  });

  test('in reading counters for the log is outlived, and what was lost meanwhile is said later', () => {
    const { timer, log, life, said } = rig();
    const world = { lost: 0, broken: false };
    const counters = (): readonly ListenerCounters[] => {
      if (world.broken) throw new Error('bpf_map_lookup_elem: ENOMEM');
      const none = {
        received: 0,
        forwarded: 0,
        bytesReceived: 0,
        bytesForwarded: 0,
        passed: new Map(),
        torn: new Map(),
        toSafetyNet: new Map(),
      };
      const dropped = new Map([['no_downstream', world.lost]]);
      return [{ listener: aListener(), mode: 'tc_ebpf', ...none, dropped, downstreams: new Map(), gone: new Map() }];
    };
    watchLosses({ log, counters, meaning: (reason) => reason, ...life.part('losses') });
    timer.advance(10_000);
    Object.assign(world, { lost: 5, broken: true });
    timer.advance(10_000);
    Object.assign(world, { lost: 7, broken: false });
    timer.advance(10_000);
    expect(life.errors.get('losses')).toBe(1);
    expect(said()).toEqual([
      'ERROR internal error where="losses" error="bpf_map_lookup_elem: ENOMEM"',
      expect.stringMatching(/^WARN datagrams dropped .*datagrams=7/),
      'INFO internal error is over where="losses"',
    ]);
  });
});

describe('the end', () => {
  test('closes all in reverse order, one after the other, whichever of them fail', async () => {
    const { life, said } = rig();
    const closed: string[] = [];
    life.onClose('lock', () => void closed.push('lock'));
    life.onClose('datapath', () => {
      closed.push('datapath');
      throw new Error('detach: EBUSY');
    });
    life.onClose('metrics', async () => {
      await new Promise(setImmediate);
      closed.push('metrics');
      throw new Error('late');
    });
    life.onClose('losses', fails);
    await life.close();
    expect(closed).toEqual(['metrics', 'datapath', 'lock']);
    expect([...life.errors.keys()]).toEqual(['losses', 'metrics', 'datapath']);
    expect(said()).toContain('ERROR internal error where="datapath" error="detach: EBUSY"');
  });

  test('is told by the signal before anything is closed, and nothing that is guarded runs after that', async () => {
    const { timer, life } = rig();
    const ran: string[] = [];
    const { timer: set, ticker, guard } = life.part('health');
    set(10, () => ran.push('timer'));
    ticker(10, () => ran.push('ticker'));
    const callback = guard(() => ran.push('callback'));
    life.onClose('health', () => {
      callback();
      ran.push(`aborted ${life.signal.aborted}`);
    });
    expect(life.signal.aborted).toBe(false);
    await life.close();
    timer.advance(1000);
    expect(ran).toEqual(['aborted true']);
  });
});
