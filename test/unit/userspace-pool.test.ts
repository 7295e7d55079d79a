/** Worker threads that die, hang and stop; and counters that two threads see. */
import { readdirSync, readlinkSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { REASON } from '../../agent/datapath/userspace/reasons.ts';
import { buildSnapshot } from '../../agent/datapath/userspace/snapshot.ts';
import { Descriptors } from '../../agent/datapath/userspace/sockets/descriptors.ts';
import { openListenerSocket, openNatSocket } from '../../agent/datapath/userspace/sockets/open.ts';
import type { WorkerJob } from '../../agent/datapath/userspace/workers/job.ts';
import { WorkerPool } from '../../agent/datapath/userspace/workers/pool.ts';
import { WorkerState } from '../../agent/datapath/userspace/workers/state.ts';
import { libc } from '../../agent/ffi/libc.ts';
import { buildTable } from '../../agent/table.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aLog, anEndpoint } from '../fake/words.ts';

/** A thread that does what the test says, and with its descriptors what a worker does. */
class FakeThread {
  readonly job: WorkerJob;
  readonly state: WorkerState;
  readonly descriptors: Descriptors;
  terminated = false;
  /** It is at work, or waits in a receive. */
  lives = true;
  readonly #listeners = new Map<string, (value: never) => void>();

  constructor(job: WorkerJob) {
    this.job = job;
    this.state = new WorkerState(job.state);
    this.descriptors = new Descriptors(job.descriptors);
  }

  on(event: 'error' | 'exit', listener: (value: never) => void): void {
    this.#listeners.set(event, listener);
  }

  unref(): void {}

  /** As Node does where the thread is loading koffi, though it cannot end the process here. */
  terminate(): void {
    if (!this.state.ready && !this.state.left)
      throw new Error('FATAL ERROR: Error::ThrowAsJavaScriptException napi_throw');
    this.terminated = true;
  }

  /** Ends as it was told to. */
  leave(): void {
    this.descriptors.closeAll();
    this.state.leave();
  }

  exit(): void {
    this.lives = false;
    this.#listeners.get('exit')!(1 as never);
  }

  die(reason: string): void {
    this.#listeners.get('error')!(new Error(reason) as never);
    this.exit();
  }
}

const snapshot = (generation: number) => buildSnapshot(generation, [buildTable(4, [anEndpoint('10.0.0.1')])], [], 2);
const bind = { family: 4, ip: '127.0.0.1', port: 0 } as const;

/** A pool of two on real sockets; `fails` says of each start in turn whether there is no thread to be had. */
function rig(fails: (start: number) => boolean = () => false) {
  const threads: FakeThread[] = [];
  const log = aLog();
  const clock = new FakeTimer();
  const options = {
    receiveBuffer: 0,
    blocking: true,
    coalesces: false,
    onlyIpv6: false,
    isFurther: false,
    tellsArrival: false,
  };
  const fds = [0, 1].map(() => openListenerSocket(bind, options).fd);
  onTestFinished(() => fds.forEach((fd) => void libc.close(fd)));
  const jobs = fds.map((fd, index) => ({
    fd,
    index,
    batchSize: 64,
    maxPacketSize: 9000,
    preserve: undefined,
    gathers: true,
    coalesces: true,
    cpu: undefined,
  }));
  let starts = 0;
  const start = (of: WorkerJob) => {
    // As Node says it where pids.max is reached.
    if (fails(++starts)) throw new Error('EAGAIN');
    threads.push(new FakeThread(of));
    return threads.at(-1)!;
  };
  /** While time passes, threads show that they live. */
  const timer = (milliseconds: number, task: () => void) =>
    clock.set(milliseconds, () => {
      for (const { lives, state } of threads) if (lives) state.beat();
      task();
    });
  /** Those that stand in, by the worker's index, with what they were told. */
  const standIns: string[] = [];
  const standIn = ({ index }: { index: number }, { generation }: { generation: number }) => {
    standIns.push(`${index} opened with ${generation}`);
    const state = new WorkerState();
    state.received(10, 100);
    state.forwarded(10, 100);
    return {
      deaths: 0,
      ready: () => true,
      publish: (latest: { generation: number }) => standIns.push(`${index} told of ${latest.generation}`) > 0,
      totals: () => [state.read(0)],
      stop: () => {},
      close: () => void standIns.push(`${index} closed`),
    };
  };
  const open = () =>
    new WorkerPool({ log, name: 'syslog', jobs, snapshot: snapshot(1), start, standIn, timer, now: () => clock.now });
  /** Ends the pool, whose threads obey at once. */
  const end = (pool: WorkerPool) => {
    for (const thread of threads) thread.leave();
    pool.close();
  };
  return { open, threads, log, clock, fds, end, standIns };
}

/** What a descriptor is of; undefined if it is closed. */
function openFile(fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return undefined;
  }
}

function sockets(): string[] {
  const all = readdirSync('/proc/self/fd').map((fd) => openFile(Number(fd)) ?? '');
  return all.filter((file) => file.startsWith('socket:')).sort();
}

describe('a pool of workers', () => {
  test('names a worker that dies, counts it, and starts it again on its socket with the latest table', () => {
    const { open, threads, log, clock, end } = rig();
    const pool = open();
    pool.publish(snapshot(2));
    threads[1]!.die('out of luck');
    expect(pool.deaths).toBe(1);
    expect(log.lines).toEqual([
      'ERROR userspace worker died listener="syslog" worker=1 error="out of luck" deaths=1 restart_ms=100',
    ]);
    clock.advance(100);
    expect(threads).toHaveLength(3);
    expect(threads[2]!.job).toMatchObject({ index: 1, snapshot: { generation: 2 } });
    expect(threads[2]!.job.state).toBe(threads[1]!.job.state);
    end(pool);
  });

  test('has its place taken from when it dies until it is back', () => {
    const { open, threads, clock, standIns, end } = rig();
    const pool = open();
    threads[1]!.die('out of luck');
    pool.publish(snapshot(2));
    expect(standIns).toEqual(['1 opened with 1', '1 told of 2']);
    clock.advance(100);
    expect(threads).toHaveLength(3);
    clock.advance(20);
    expect(standIns.slice(2)).toEqual(['1 closed']);
    threads[2]!.die('again');
    // What went through both stand-ins stays counted.
    expect(pool.totals().reduce((sum, { forwarded }) => sum + forwarded, 0)).toBe(20);
    end(pool);
    expect(standIns.slice(3)).toEqual(['1 opened with 2', '1 closed']);
  });

  test('books what a worker had in hand when it died', () => {
    const { open, threads, end } = rig();
    const pool = open();
    threads[0]!.state.work();
    threads[0]!.state.received(64, 6400);
    threads[0]!.state.forwarded(40, 4000);
    threads[0]!.state.dropped(REASON.EAGAIN, 3);
    threads[0]!.die('in the middle');
    expect(pool.totals()[0]!.dropped[REASON.worker_died]).toBe(21);
    end(pool);
  });

  test('sees within two seconds that a worker hangs, stands in for it, and starts another when it has ended', () => {
    const { open, threads, clock, log, standIns, end } = rig();
    const pool = open();
    clock.advance(60_000);
    expect([log.lines, standIns]).toEqual([[], []]);
    threads[0]!.lives = false;
    threads[0]!.state.work();
    clock.advance(2000);
    expect(log.lines).toEqual([
      'ERROR userspace worker hangs, the agent stands in for it listener="syslog" worker=0 deaths=1',
    ]);
    expect([threads[0]!.terminated, standIns]).toEqual([true, ['0 opened with 1']]);
    // Nobody waits for it to take a table.
    expect(pool.publish(snapshot(2))).toBe(true);
    clock.advance(60_000);
    threads[0]!.exit();
    clock.advance(200);
    expect([threads.length, pool.deaths]).toEqual([3, 1]);
    expect(standIns).toEqual(['0 opened with 1', '0 told of 2', '0 closed']);
    end(pool);
  });

  test('does not end one that hangs while it loads before it is there', () => {
    const { open, threads, clock, standIns, log, end } = rig();
    const pool = open();
    threads[0]!.lives = false;
    clock.advance(30_000);
    expect([standIns, log.lines.length, threads[0]!.terminated]).toEqual([['0 opened with 1'], 1, false]);
    threads[0]!.state.beat();
    clock.advance(20);
    expect([threads[0]!.terminated, threads.length]).toEqual([true, 2]);
    threads[0]!.exit();
    clock.advance(200);
    expect([threads.length, pool.deaths]).toEqual([3, 1]);
    end(pool);
  });

  test('waits longer each time for one that dies at once, at most 30 s', () => {
    const { open, threads, log, clock, end } = rig();
    const pool = open();
    for (let death = 0; death < 12; death++) {
      threads.at(-1)!.die('again');
      clock.advance(30_000);
    }
    const pauses = log.lines.map((line) => Number(/restart_ms=(\d+)/.exec(line)![1]));
    expect(pauses.slice(0, 4)).toEqual([100, 200, 400, 800]);
    expect(pauses.at(-1)).toBe(30_000);
    end(pool);
  });

  test('says when a worker is still at its work with the old table', () => {
    const { open, threads, end } = rig();
    const pool = open();
    expect(pool.publish(snapshot(2))).toBe(true);
    threads[0]!.state.work();
    expect(pool.publish(snapshot(3))).toBe(false);
    // It looks at the generation after it has said that it works: then it has the new one.
    threads[0]!.state.adopt(threads[0]!.state.generation);
    expect(pool.publish(snapshot(3))).toBe(true);
    end(pool);
  });

  test('does not wait for one that died at its work', () => {
    const { open, threads, end } = rig();
    const pool = open();
    threads[0]!.state.work();
    threads[0]!.die('in the middle');
    expect(pool.publish(snapshot(2))).toBe(true);
    end(pool);
  });

  test('is gone within two seconds even if a worker hangs, and starts none afterwards', () => {
    const { open, threads, log, clock } = rig();
    const pool = open();
    threads[0]!.state.beat();
    threads[1]!.die('too late');
    const start = performance.now();
    pool.close();
    expect(performance.now() - start).toBeLessThan(2000);
    expect(threads[0]!.terminated).toBe(true);
    expect(log.lines.at(-1)).toBe('WARN worker did not stop in time listener="syslog"');
    // Nothing of it is closed before it has ended.
    const { fd } = threads[0]!.job;
    expect(openFile(fd)).toMatch(/^socket:/);
    threads[0]!.exit();
    expect(openFile(fd)).toBeUndefined();
    clock.advance(60_000);
    expect(threads).toHaveLength(2);
  });

  test('leaves nothing running and nothing open where one of its workers does not start', () => {
    const { open, threads, fds, log, clock } = rig((start) => start === 2);
    const before = sockets();
    expect(open).toThrow(/^failed to start worker 1: EAGAIN: no more threads allowed \(pids\.max/);
    const [one] = threads as [FakeThread];
    expect([threads.length, one.state.stopping, one.terminated]).toEqual([1, true, false]);
    // It may be at its work until it has ended.
    expect(openFile(one.job.fd)).toMatch(/^socket:/);
    // It still loads.
    one.lives = false;
    clock.advance(1000);
    expect(one.terminated).toBe(false);
    one.state.leave();
    clock.advance(20);
    expect(one.terminated).toBe(true);
    one.exit();
    expect(sockets()).toEqual(before);
    // Those that it was given are still whose they were.
    expect(fds.every((fd) => openFile(fd)?.startsWith('socket:'))).toBe(true);
    expect(log.lines).toEqual([]);
  });

  test('tries again, with growing pauses, where a worker that died does not start again', () => {
    const { open, threads, log, clock, end } = rig((start) => start === 3 || start === 4);
    const pool = open();
    threads[1]!.die('out of luck');
    clock.advance(100 + 200);
    const why = 'error="failed to start worker 1: EAGAIN: no more threads allowed (pids.max of the pod, or ulimit -u)"';
    expect(log.lines).toEqual([
      'ERROR userspace worker died listener="syslog" worker=1 error="out of luck" deaths=1 restart_ms=100',
      `ERROR userspace worker did not start listener="syslog" worker=1 ${why} deaths=1 restart_ms=200`,
      `ERROR userspace worker did not start listener="syslog" worker=1 ${why} deaths=1 restart_ms=400`,
    ]);
    clock.advance(400);
    expect([threads.length, pool.deaths]).toEqual([3, 1]);
    end(pool);
  });

  test('gives each worker a descriptor of its own, and closes what one that died had open', () => {
    const { open, threads, clock, fds, end } = rig();
    const before = sockets();
    const pool = open();
    const own = sockets();
    expect(threads.map(({ job }) => openFile(job.fd))).toEqual(fds.map(openFile));
    expect(threads.some(({ job }) => fds.includes(job.fd))).toBe(false);
    for (let deaths = 0; deaths < 6; deaths++) {
      const { descriptors } = threads.at(-1)!;
      for (let sockets = 0; sockets < 20; sockets++) descriptors.own(openNatSocket(4));
      descriptors.close(descriptors.own(openNatSocket(4)));
      threads.at(-1)!.die('in the middle');
      clock.advance(30_000);
    }
    expect([sockets().length, pool.deaths]).toEqual([own.length, 6]);
    end(pool);
    expect(sockets()).toEqual(before);
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
