/** Worker threads that die, hang and stop; and counters that two threads see. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { buildSnapshot } from '../../agent/datapath/userspace/snapshot.ts';
import type { WorkerJob } from '../../agent/datapath/userspace/workers/job.ts';
import { WorkerPool } from '../../agent/datapath/userspace/workers/pool.ts';
import { WorkerState } from '../../agent/datapath/userspace/workers/state.ts';
import { buildTable } from '../../agent/table.ts';
import { aLog, anEndpoint } from '../fake/words.ts';

/** A thread that does what the test says. */
class FakeThread {
  readonly job: WorkerJob;
  readonly state: WorkerState;
  terminated = false;
  readonly #listeners = new Map<string, (value: never) => void>();

  constructor(job: WorkerJob) {
    this.job = job;
    this.state = new WorkerState(job.state);
  }

  on(event: 'error' | 'exit', listener: (value: never) => void): void {
    this.#listeners.set(event, listener);
  }

  unref(): void {}

  terminate(): void {
    this.terminated = true;
  }

  die(reason: string): void {
    this.#listeners.get('error')!(new Error(reason) as never);
    this.#listeners.get('exit')!(1 as never);
  }
}

const snapshot = (generation: number) => buildSnapshot(generation, [buildTable(4, [anEndpoint('10.0.0.1')])], [], 2);
const job = (index: number) => ({
  fd: -1,
  index,
  batchSize: 64,
  maxPacketSize: 9000,
  preserve: undefined,
  gathers: true,
  coalesces: true,
  cpu: undefined,
});

function rig() {
  const threads: FakeThread[] = [];
  const log = aLog();
  const start = (of: WorkerJob) => {
    threads.push(new FakeThread(of));
    return threads.at(-1)!;
  };
  const pool = new WorkerPool({ log, name: 'syslog', jobs: [job(0), job(1)], snapshot: snapshot(1), start });
  /** Ends the pool, whose threads obey at once. */
  const end = () => {
    for (const { state } of threads) state.leave();
    pool.close();
  };
  return { pool, threads, log, end };
}

describe('a pool of workers', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }));
  afterEach(() => void vi.useRealTimers());

  test('names a worker that dies, counts it, and starts it again on its socket with the latest table', () => {
    const { pool, threads, log, end } = rig();
    pool.publish(snapshot(2));
    threads[1]!.die('out of luck');
    expect(pool.deaths).toBe(1);
    expect(log.lines).toEqual([
      'ERROR userspace worker died listener="syslog" worker=1 error="out of luck" deaths=1 restart_ms=100',
    ]);
    vi.advanceTimersByTime(100);
    expect(threads).toHaveLength(3);
    expect(threads[2]!.job).toMatchObject({ index: 1, snapshot: { generation: 2 } });
    expect(threads[2]!.job.state).toBe(threads[1]!.job.state);
    end();
  });

  test('waits longer each time for one that dies at once, at most 30 s', () => {
    const { threads, log, end } = rig();
    for (let death = 0; death < 12; death++) {
      threads.at(-1)!.die('again');
      vi.advanceTimersByTime(30_000);
    }
    const pauses = log.lines.map((line) => Number(/restart_ms=(\d+)/.exec(line)![1]));
    expect(pauses.slice(0, 4)).toEqual([100, 200, 400, 800]);
    expect(pauses.at(-1)).toBe(30_000);
    end();
  });

  test('says when a worker is still at its work with the old table', () => {
    const { pool, threads } = rig();
    expect(pool.publish(snapshot(2))).toBe(true);
    threads[0]!.state.work();
    expect(pool.publish(snapshot(3))).toBe(false);
    // It looks at the generation after it has said that it works: then it has the new one.
    threads[0]!.state.adopt(threads[0]!.state.generation);
    expect(pool.publish(snapshot(3))).toBe(true);
  });

  test('does not wait for one that died at its work', () => {
    const { pool, threads, end } = rig();
    threads[0]!.state.work();
    threads[0]!.die('in the middle');
    expect(pool.publish(snapshot(2))).toBe(true);
    end();
  });

  test('is gone within two seconds even if a worker hangs, and starts none afterwards', () => {
    const { pool, threads, log } = rig();
    threads[0]!.state.leave();
    threads[1]!.die('too late');
    const start = performance.now();
    threads[0]!.state.revive();
    pool.close();
    expect(performance.now() - start).toBeLessThan(2000);
    expect(threads[0]!.terminated).toBe(true);
    expect(log.lines.at(-1)).toBe('WARN worker did not stop in time listener="syslog"');
    vi.advanceTimersByTime(60_000);
    expect(threads).toHaveLength(2);
  });
});

describe('a state', () => {
  test('is read by another view of the same memory', () => {
    const state = new WorkerState();
    state.received(3, 600);
    state.forwarded(2, 400);
    state.dropped(1, 1);
    const { dropped, ...rest } = new WorkerState(state.memory).read(0);
    expect(rest).toEqual({ received: 3, forwarded: 2, bytesReceived: 600, bytesForwarded: 400 });
    expect(dropped.reduce((sum, count) => sum + count, 0)).toBe(1);
    expect(dropped[1]).toBe(1);
  });
});
