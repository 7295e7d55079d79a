/**
 * The worker threads of all userspace listeners. A listener's sockets are shared out over them, each to the thread that has
 * the fewest; threads come with the listeners that want them, and go with the last that they serve.
 */
import { now as clockNow, setTimer, type Timer } from '../../../clock.ts';
import type { Log } from '../../../log.ts';
import type { ForwarderGroup } from '../forwarder-group.ts';
import type { TableSnapshot } from '../snapshot.ts';
import { allowedCpus } from './cpus.ts';
import type { Terms } from './job.ts';
import { ListenerShares, type Place } from './listener-shares.ts';
import { PoolThread, type StartThread, startThread } from './pool-thread.ts';
import { type OpenStandIn, Share } from './share.ts';
import { pollUntil } from './state.ts';

/** How often the threads' pulse is taken. */
const PULSE_MS = 400;

export interface WorkerPoolOptions {
  readonly log: Log;
  readonly start?: StartThread | undefined;
  readonly now?: () => number;
  readonly timer?: Timer;
}

/** A listener that is to be served. */
export interface Service {
  /** The listener's name. */
  readonly name: string;
  /** One for each of its sockets, which stay the caller's. */
  readonly sockets: readonly Terms[];
  readonly snapshot: TableSnapshot;
  /** How many threads the pool may have, if no listener has more sockets. */
  readonly threads: number;
  /** Serves a socket on this thread. */
  readonly standIn: OpenStandIn;
}

export class WorkerPool {
  readonly #log: Log;
  readonly #start: StartThread;
  readonly #now: () => number;
  readonly #timer: Timer;
  readonly #cpus = allowedCpus();
  /** By index; one that ends has no place here any more. */
  readonly #threads = new Map<number, PoolThread>();
  /** Told to end, and not yet seen to. */
  readonly #ending = new Set<PoolThread>();
  #cancelPulse: (() => void) | undefined;
  /** By when the listeners that are closed had to have stopped, and with the last of them the threads. */
  #stopBy = 0;
  #lastId = 0;
  #deaths = 0;

  constructor({ log, start = startThread, now = clockNow, timer = setTimer }: WorkerPoolOptions) {
    this.#log = log;
    this.#start = start;
    this.#now = now;
    this.#timer = timer;
  }

  /** Throws where a thread does not start, or no descriptor is to be had; then nothing of the listener's is served. */
  serve({ name, sockets, snapshot, threads, standIn }: Service): ForwarderGroup {
    const places: Place[] = [];
    const onClose = (stopBy: number) => {
      this.#stopBy = Math.max(this.#stopBy, stopBy);
      this.#endIdle();
    };
    const group = new ListenerShares({ log: this.#log, name, places, onClose });
    try {
      const chosen = this.#choose(sockets.length, threads);
      for (const [at, terms] of sockets.entries()) {
        const thread = chosen[at]!;
        const share = new Share(++this.#lastId, terms, snapshot, standIn);
        thread.serve(share);
        places.push({ share, thread });
      }
    } catch (error) {
      // What it was given a thread may have begun to serve: it ends as soon as it has let go of it.
      group.stop();
      throw error;
    } finally {
      if (!this.#cancelPulse) this.#takePulse();
    }
    return group;
  }

  /** Ends all threads, whose listeners are closed, in what is left of the time that those had. */
  close(): void {
    this.#cancelPulse?.();
    this.#cancelPulse = undefined;
    for (const thread of this.#threads.values()) this.#end(thread);
    const ending = [...this.#ending];
    pollUntil(this.#stopBy - performance.now(), () => ending.every((thread) => !thread.serves));
    for (const thread of ending) thread.terminate();
    this.#ending.clear();
  }

  /** So many threads, those first that have the least to do; in the order of their CPUs. Throws where one does not start. */
  #choose(count: number, most: number): PoolThread[] {
    const indexes = Array.from({ length: Math.max(count, most) }, (_, index) => index);
    const load = (index: number) => this.#threads.get(index)?.shares.size ?? 0;
    const least = indexes.sort((a, b) => load(a) - load(b) || a - b).slice(0, count);
    return least.sort((a, b) => a - b).map((index) => this.#threads.get(index) ?? this.#startOne(index));
  }

  #startOne(index: number): PoolThread {
    const thread = new PoolThread({
      index,
      cpus: this.#cpus,
      start: this.#start,
      now: this.#now,
      timer: this.#timer,
      onEnd: (...end) => this.#ended(...end),
    });
    thread.start();
    this.#threads.set(index, thread);
    return thread;
  }

  #takePulse(): void {
    this.#endIdle();
    for (const thread of [...this.#threads.values()].filter((one) => one.stopsBeating())) {
      this.#count(thread);
      const fields = { ...named(thread), deaths: this.#deaths };
      this.#log.error('userspace worker hangs, the agent stands in for it', fields);
      thread.giveUp();
    }
    this.#cancelPulse = this.#threads.size > 0 ? this.#timer(PULSE_MS, () => this.#takePulse()) : undefined;
  }

  /** Ends threads that have nothing to serve; one that still has to let go of something is looked at again. */
  #endIdle(): void {
    for (const thread of this.#threads.values()) {
      thread.forget();
      if (thread.shares.size === 0) this.#end(thread);
    }
    for (const thread of this.#ending) if (!thread.serves) this.#ending.delete(thread);
  }

  #end(thread: PoolThread): void {
    thread.stop();
    this.#threads.delete(thread.index);
    this.#ending.add(thread);
  }

  #ended(thread: PoolThread, error: Error, started: boolean): void {
    if (thread.shares.size === 0) {
      this.#end(thread);
      return;
    }
    if (started && !thread.hangs) this.#count(thread);
    const again = thread.reviveLater();
    const fields = { ...named(thread), error: error.message, deaths: this.#deaths, restart_ms: again };
    this.#log.error(started ? 'userspace worker died' : 'userspace worker did not start', fields);
  }

  #count(thread: PoolThread): void {
    this.#deaths++;
    for (const share of thread.shares) share.deaths++;
  }
}

function named({ index, shares }: PoolThread): { readonly worker: number; readonly listeners: number } {
  return { worker: index, listeners: shares.size };
}
