/** The pool's threads that die, hang and stop, the shares of listeners that come and go; and counters that two threads see. */
import { readdirSync, readlinkSync } from 'node:fs';
import { receiveMessageOnPort } from 'node:worker_threads';
import { describe, expect, onTestFinished, test } from 'vitest';
import { REASON } from '../../agent/datapath/userspace/reasons.ts';
import { buildSnapshot, type TableSnapshot } from '../../agent/datapath/userspace/snapshot.ts';
import { Descriptors } from '../../agent/datapath/userspace/sockets/descriptors.ts';
import { openListenerSocket, openNatSocket } from '../../agent/datapath/userspace/sockets/open.ts';
import type { ShareJob, ThreadJob, ThreadMessage } from '../../agent/datapath/userspace/workers/job.ts';
import { WorkerPool } from '../../agent/datapath/userspace/workers/pool.ts';
import { ForwarderState } from '../../agent/datapath/userspace/workers/state.ts';
import { ThreadState } from '../../agent/datapath/userspace/workers/thread-state.ts';
import { libc } from '../../agent/ffi/libc.ts';
import { buildTable } from '../../agent/table.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aLog, anEndpoint } from '../fake/words.ts';

/** A share as a thread has it. */
class FakeShare {
  readonly job: ShareJob;
  readonly state: ForwarderState;
  readonly descriptors: Descriptors;
  generation: number;

  constructor(job: ShareJob) {
    this.job = job;
    this.state = new ForwarderState(job.state);
    this.descriptors = new Descriptors(job.descriptors);
    this.generation = job.snapshot.generation;
    this.state.begin();
  }

  /** Ends as it was told to. */
  leave(): void {
    this.descriptors.closeAll();
    this.state.leave();
  }
}

/** A thread that does what the test says, and with its messages and descriptors what a worker does. */
class FakeThread {
  readonly job: ThreadJob;
  readonly state: ThreadState;
  /** In the order in which they came. */
  readonly shares: FakeShare[] = [];
  terminated = false;
  /** It is at work, or waits. */
  lives = true;
  readonly #listeners = new Map<string, (value: never) => void>();

  constructor(job: ThreadJob) {
    this.job = job;
    this.state = new ThreadState(job.state);
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

  /** Says that it lives, and does what it was told. */
  round(): void {
    if (!this.lives) return;
    this.state.beat();
    for (;;) {
      const received = receiveMessageOnPort(this.job.messages) as { message: ThreadMessage } | undefined;
      if (!received) break;
      const { message } = received;
      if ('serve' in message) this.shares.push(new FakeShare(message.serve));
      else this.#share(message.id).generation = message.snapshot.generation;
    }
    for (const share of this.shares) if (share.state.stopping && !share.state.left) share.leave();
    if (this.state.stopping) this.leave();
  }

  /** Ends as it was told to. */
  leave(): void {
    for (const share of this.shares) share.leave();
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

  #share(id: number): FakeShare {
    return this.shares.find(({ job }) => job.id === id)!;
  }
}

const snapshot = (generation: number) => buildSnapshot(generation, [buildTable(4, [anEndpoint('10.0.0.1')])], [], 2);
const bind = { family: 4, ip: '127.0.0.1', port: 0 } as const;

/** A pool, and listeners on real sockets; `fails` says of each start in turn whether there is no thread to be had. */
function rig(fails: (start: number) => boolean = () => false) {
  const threads: FakeThread[] = [];
  const log = aLog();
  const clock = new FakeTimer();
  let starts = 0;
  const start = (of: ThreadJob) => {
    // As Node says it where pids.max is reached.
    if (fails(++starts)) throw new Error('EAGAIN');
    threads.push(new FakeThread(of));
    return threads.at(-1)!;
  };
  const rounds = () => {
    for (const thread of threads) thread.round();
  };
  /** While time passes, threads go round. */
  const timer = (milliseconds: number, task: () => void) =>
    clock.set(milliseconds, () => {
      rounds();
      task();
    });
  /** Those that stand in, by listener and the socket's index, with what they were told. */
  const standIns: string[] = [];
  const standInOf =
    (name: string) =>
    ({ index }: { index: number }, { generation }: TableSnapshot) => {
      const who = `${name}/${index}`;
      standIns.push(`${who} opened with ${generation}`);
      const state = new ForwarderState();
      state.received(10, 100);
      state.forwarded(10, 100);
      return {
        deaths: 0,
        ready: () => true,
        publish: (latest: TableSnapshot) => standIns.push(`${who} told of ${latest.generation}`) > 0,
        totals: () => [state.read(0)],
        stop: () => {},
        close: () => void standIns.push(`${who} closed`),
      };
    };
  const pool = new WorkerPool({ log, start, timer, now: () => clock.now });
  const fds: number[] = [];
  onTestFinished(() => fds.forEach((fd) => void libc.close(fd)));
  const socket = (index: number) => {
    const { fd } = openListenerSocket(bind, {
      receiveBuffer: 0,
      blocking: true,
      coalesces: false,
      onlyIpv6: false,
      isFurther: false,
      tellsArrival: false,
    });
    fds.push(fd);
    const common = { batchSize: 64, maxPacketSize: 9000, preserve: undefined, gathers: true, coalesces: true };
    return { ...common, fd, index, pin: true };
  };
  /** Has a listener served by so many sockets; the pool has at most two threads, or as many as there are sockets. */
  const open = (name = 'syslog', count = 2) => {
    const sockets = Array.from({ length: count }, (_, index) => socket(index));
    const group = pool.serve({ name, sockets, snapshot: snapshot(1), threads: 2, standIn: standInOf(name) });
    rounds();
    return group;
  };
  /** Ends all of a group's shares at once, then the group. */
  const close = (group: ReturnType<typeof open>) => {
    group.stop();
    rounds();
    group.close();
  };
  /** Ends the pool, whose threads obey at once. */
  const end = () => {
    for (const thread of threads) thread.leave();
    pool.close();
    for (const thread of threads) if (thread.lives) thread.exit();
  };
  return { pool, open, close, threads, log, clock, fds, end, standIns };
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
  test('names a worker that dies, counts it, and starts it again on its sockets with the latest tables', () => {
    const { open, threads, log, clock, end } = rig();
    const groups = [open('a'), open('b')];
    groups[1]!.publish(snapshot(2));
    threads[1]!.die('out of luck');
    expect(groups.map(({ deaths }) => deaths)).toEqual([1, 1]);
    expect(log.lines).toEqual([
      'ERROR userspace worker died worker=1 listeners=2 error="out of luck" deaths=1 restart_ms=100',
    ]);
    clock.advance(120);
    expect(threads).toHaveLength(3);
    expect(threads[2]!.job).toMatchObject({ index: 1 });
    expect(threads[2]!.shares.map(({ job }) => [job.index, job.snapshot.generation])).toEqual([
      [1, 1],
      [1, 2],
    ]);
    expect(threads[2]!.shares.map(({ job }) => job.state)).toEqual(threads[1]!.shares.map(({ job }) => job.state));
    end();
  });

  test('has its place taken from when it dies until it is back', () => {
    const { open, close, threads, clock, standIns } = rig();
    const group = open();
    threads[1]!.die('out of luck');
    group.publish(snapshot(2));
    expect(standIns).toEqual(['syslog/1 opened with 1', 'syslog/1 told of 2']);
    clock.advance(100);
    expect(threads).toHaveLength(3);
    clock.advance(20);
    expect(standIns.slice(2)).toEqual(['syslog/1 closed']);
    threads[2]!.die('again');
    // What went through both stand-ins stays counted.
    expect(group.totals().reduce((sum, { forwarded }) => sum + forwarded, 0)).toBe(20);
    close(group);
    expect(standIns.slice(3)).toEqual(['syslog/1 opened with 2', 'syslog/1 closed']);
  });

  test('books what a worker had in hand when it died', () => {
    const { open, threads, end } = rig();
    const group = open();
    const { state } = threads[0]!.shares[0]!;
    state.work();
    state.received(64, 6400);
    state.forwarded(40, 4000);
    state.dropped(REASON.EAGAIN, 3);
    threads[0]!.die('in the middle');
    expect(group.totals()[0]!.dropped[REASON.worker_died]).toBe(21);
    end();
  });

  test('sees within two seconds that a worker hangs, stands in for it, and starts another when it has ended', () => {
    const { open, threads, clock, log, standIns, end } = rig();
    const [one, other] = [open('a'), open('b')];
    clock.advance(60_000);
    expect([log.lines, standIns]).toEqual([[], []]);
    threads[0]!.lives = false;
    threads[0]!.shares[0]!.state.work();
    clock.advance(2000);
    expect(log.lines).toEqual([
      'ERROR userspace worker hangs, the agent stands in for it worker=0 listeners=2 deaths=1',
    ]);
    expect([threads[0]!.terminated, standIns]).toEqual([true, ['a/0 opened with 1', 'b/0 opened with 1']]);
    // Nobody waits for it to take a table.
    expect(one.publish(snapshot(2))).toBe(true);
    // Nor to take or to give back a listener.
    const third = open('c');
    expect(third.ready(0)).toBe(true);
    other.stop();
    threads[1]!.round();
    other.close();
    clock.advance(60_000);
    threads[0]!.exit();
    clock.advance(200);
    expect([threads.length, one.deaths, third.deaths]).toEqual([3, 1, 0]);
    expect(standIns.slice(2)).toEqual(['a/0 told of 2', 'c/0 opened with 1', 'b/0 closed', 'a/0 closed', 'c/0 closed']);
    expect(threads[2]!.shares).toHaveLength(2);
    end();
  });

  test('does not end one that hangs while it loads before it is there', () => {
    const { open, threads, clock, standIns, log, end } = rig();
    const group = open();
    threads[0]!.state.enter();
    threads[0]!.lives = false;
    clock.advance(30_000);
    expect([standIns, log.lines.length, threads[0]!.terminated]).toEqual([['syslog/0 opened with 1'], 1, false]);
    threads[0]!.state.beat();
    clock.advance(20);
    expect([threads[0]!.terminated, threads.length]).toEqual([true, 2]);
    threads[0]!.exit();
    clock.advance(200);
    expect([threads.length, group.deaths]).toEqual([3, 1]);
    end();
  });

  test('does not end one that hangs while it receives before what came is booked', () => {
    const { open, threads, clock, end } = rig();
    const group = open();
    const { state } = threads[0]!.shares[0]!;
    state.take();
    threads[0]!.lives = false;
    clock.advance(10_000);
    expect([group.deaths, threads[0]!.terminated, threads[0]!.state.ends]).toEqual([1, false, true]);
    state.received(64, 6400);
    state.taken();
    clock.advance(20);
    expect(threads[0]!.terminated).toBe(true);
    threads[0]!.exit();
    expect(group.totals()[0]!.dropped[REASON.worker_died]).toBe(64);
    clock.advance(200);
    expect([threads.length, threads[2]!.state.ends]).toEqual([3, false]);
    end();
  });

  test('waits longer each time for one that dies at once, at most 30 s', () => {
    const { open, threads, log, clock, end } = rig();
    open();
    for (let death = 0; death < 12; death++) {
      threads.at(-1)!.die('again');
      clock.advance(30_000);
    }
    const pauses = log.lines.map((line) => Number(/restart_ms=(\d+)/.exec(line)![1]));
    expect(pauses.slice(0, 4)).toEqual([100, 200, 400, 800]);
    expect(pauses.at(-1)).toBe(30_000);
    end();
  });

  test('says when a worker is still at its work with the old table', () => {
    const { open, threads, end } = rig();
    const group = open();
    expect(group.publish(snapshot(2))).toBe(true);
    const { state } = threads[0]!.shares[0]!;
    state.work();
    expect(group.publish(snapshot(3))).toBe(false);
    // It looks at the generation after it has said that it works: then it has the new one.
    state.adopt(state.generation);
    expect(group.publish(snapshot(3))).toBe(true);
    end();
  });

  test('does not wait for one that died at its work', () => {
    const { open, threads, end } = rig();
    const group = open();
    threads[0]!.shares[0]!.state.work();
    threads[0]!.die('in the middle');
    expect(group.publish(snapshot(2))).toBe(true);
    end();
  });

  test('is gone within a second even if a worker hangs, and starts none afterwards', () => {
    const { pool, open, threads, log, clock } = rig();
    const groups = Array.from({ length: 20 }, (_, index) => open(`l${index}`));
    threads[1]!.die('too late');
    threads[0]!.lives = false;
    const start = performance.now();
    for (const group of groups) group.stop();
    for (const group of groups) group.close();
    pool.close();
    const took = performance.now() - start;
    // It had all of that time, but for listeners and threads together.
    expect(took).toBeGreaterThan(990);
    expect(took).toBeLessThan(1200);
    expect(threads[0]!.terminated).toBe(true);
    expect(log.lines.at(-1)).toBe('WARN worker did not stop in time listener="l19"');
    // Nothing of it is closed before it has ended.
    const { fd } = threads[0]!.shares[0]!.job;
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
    // It still loads.
    clock.advance(400);
    expect([threads.length, one.state.stopping, one.terminated]).toEqual([1, true, false]);
    one.leave();
    one.exit();
    const ours = fds.map(openFile);
    expect(sockets().filter((file) => !ours.includes(file))).toEqual(before);
    // Those that it was given are still whose they were.
    expect(ours.every((file) => file?.startsWith('socket:'))).toBe(true);
    expect(log.lines).toEqual([]);
  });

  test('tries again, with growing pauses, where a worker that died does not start again', () => {
    const { open, threads, log, clock, end } = rig((start) => start === 3 || start === 4);
    const group = open();
    threads[1]!.die('out of luck');
    clock.advance(100 + 200);
    const why = 'error="failed to start worker 1: EAGAIN: no more threads allowed (pids.max of the pod, or ulimit -u)"';
    expect(log.lines).toEqual([
      'ERROR userspace worker died worker=1 listeners=1 error="out of luck" deaths=1 restart_ms=100',
      `ERROR userspace worker did not start worker=1 listeners=1 ${why} deaths=1 restart_ms=200`,
      `ERROR userspace worker did not start worker=1 listeners=1 ${why} deaths=1 restart_ms=400`,
    ]);
    clock.advance(400);
    expect([threads.length, group.deaths]).toEqual([3, 1]);
    end();
  });

  test('gives each worker a descriptor of its own, and closes what one that died had open', () => {
    const { open, close, threads, clock, fds } = rig();
    const before = sockets();
    const group = open();
    const own = sockets();
    const jobs = threads.flatMap(({ shares }) => shares.map(({ job }) => job));
    expect(jobs.map(({ fd }) => openFile(fd))).toEqual(fds.map(openFile));
    expect(jobs.some(({ fd }) => fds.includes(fd))).toBe(false);
    for (let deaths = 0; deaths < 6; deaths++) {
      const { descriptors } = threads.at(-1)!.shares[0]!;
      for (let sockets = 0; sockets < 20; sockets++) descriptors.own(openNatSocket(4));
      descriptors.close(descriptors.own(openNatSocket(4)));
      threads.at(-1)!.die('in the middle');
      clock.advance(30_000);
    }
    expect([sockets().length, group.deaths]).toEqual([own.length, 6]);
    close(group);
    const ours = fds.map(openFile);
    expect(sockets().filter((file) => !ours.includes(file))).toEqual(before);
  });
});

describe('the threads of a pool', () => {
  const indexes = (threads: readonly FakeThread[]) => threads.map(({ job }) => job.index);

  test('are as many as the listener has sockets that has most, however many listeners there are', () => {
    const { open, threads, end } = rig();
    for (let listener = 0; listener < 64; listener++) open(`l${listener}`, 1 + (listener % 2));
    expect(threads.map(({ shares }) => shares.length)).toEqual([48, 48]);
    open('wide', 5);
    expect(indexes(threads)).toEqual([0, 1, 2, 3, 4]);
    open('narrow', 1);
    expect(threads.map(({ shares }) => shares.length)).toEqual([50, 49, 1, 1, 1]);
    end();
  });

  test('are no more than the listeners want', () => {
    const { open, threads, end } = rig();
    open('a', 1);
    expect(indexes(threads)).toEqual([0]);
    open('b', 1);
    expect(indexes(threads)).toEqual([0, 1]);
    end();
  });

  test('end with the last listener that they serve, and a listener that comes then gets another', () => {
    const { open, close, threads, clock } = rig();
    const [wide, narrow] = [open('wide', 3), open('narrow', 1)];
    close(wide);
    for (const thread of threads) thread.round();
    expect(threads.map(({ state }) => state.left)).toEqual([false, true, true]);
    expect(threads[0]!.shares.map(({ state }) => state.left)).toEqual([true, false]);
    // Its sockets and threads are not waited for: they are another's by then.
    const again = open('wide', 3);
    expect(indexes(threads)).toEqual([0, 1, 2, 1, 2]);
    close(again);
    close(narrow);
    clock.advance(1000);
    for (const thread of threads) thread.exit();
    clock.advance(60_000);
    expect([threads.length, threads.every(({ state }) => state.stopping)]).toEqual([5, true]);
  });

  test('serve on where a socket more cannot be had', () => {
    const { open, threads, fds, pool, end } = rig();
    const group = open('a');
    const sockets = [0, 1].map((index) => ({ ...threads[0]!.shares[0]!.job, fd: index === 0 ? fds[0]! : -1, index }));
    const standIn = () => expect.unreachable();
    const wrong = () => pool.serve({ name: 'b', sockets, snapshot: snapshot(1), threads: 2, standIn });
    expect(wrong).toThrow(/EBADF/);
    for (const thread of threads) thread.round();
    expect(threads[0]!.shares.map(({ state }) => state.left)).toEqual([false, true]);
    expect([group.publish(snapshot(2)), threads.some(({ state }) => state.stopping)]).toEqual([true, false]);
    end();
  });
});

describe('a state', () => {
  test('is read by another view of the same memory', () => {
    const state = new ForwarderState();
    state.received(3, 600);
    state.forwarded(2, 400);
    state.dropped(1, 1);
    const { dropped, ...rest } = new ForwarderState(state.memory).read(0);
    expect(rest).toEqual({ received: 3, forwarded: 2, bytesReceived: 600, bytesForwarded: 400 });
    expect(dropped.reduce((sum, count) => sum + count, 0)).toBe(1);
    expect(dropped[1]).toBe(1);
  });
});
