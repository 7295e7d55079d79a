/** A listener's worker threads: started, given their tables, started again when they die, and gone before the agent is. */
import { existsSync } from 'node:fs';
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import { now as clockNow, setTimer, type Timer } from '../../../clock.ts';
import { check } from '../../../ffi/errno.ts';
import { F_DUPFD_CLOEXEC, libc } from '../../../ffi/libc.ts';
import type { Log } from '../../../log.ts';
import { maxDescriptors } from '../forward/forwarder.ts';
import type { TableSnapshot } from '../snapshot.ts';
import { Descriptors } from '../sockets/descriptors.ts';
import type { WorkerJob } from './job.ts';
import { pollUntil, type Totals, WorkerState } from './state.ts';

const BACKOFF_MS = { first: 100, most: 30_000, forgetAfter: 60_000 };
/** A worker that holds on to an old table for longer is named as a problem; a batch takes well below a millisecond. */
const SETTLE_MS = 500;
/** Its receive ends after 100 ms, then comes what is left in the buffer. */
const STOP_MS = 1500;
const READ_MS = 20;
/** Keeps a thread to a few MiB: its heap holds code and a table of addresses, batches and slots are outside of it. */
const RESOURCES = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 2, stackSizeMb: 1 };

/** The parts of a worker_threads.Worker that a pool needs. */
export interface Thread {
  on(event: 'error', listener: (error: Error) => void): unknown;
  on(event: 'exit', listener: (code: number) => void): unknown;
  unref(): void;
  terminate(): unknown;
}

export type StartThread = (job: WorkerJob) => Thread;

/** A worker's job but for what the pool makes itself; `fd` is a socket that stays the caller's. */
export type PoolJob = Omit<WorkerJob, 'state' | 'descriptors' | 'snapshot' | 'snapshots'>;

export interface PoolOptions {
  readonly log: Log;
  /** The listener's name. */
  readonly name: string;
  /** One for each worker. */
  readonly jobs: readonly PoolJob[];
  readonly snapshot: TableSnapshot;
  readonly start?: StartThread | undefined;
  readonly now?: () => number;
  readonly timer?: Timer;
}

/** What forwards a listener's datagrams, whether threads of a pool or the agent's own. */
export interface ForwarderGroup {
  /** Waits until all forwarders receive; false if some do not within `limit` ms. */
  ready(limit: number): boolean;
  /** Goes by another snapshot; when it returns, nothing goes by the old one. False if that could not be had in time. */
  publish(snapshot: TableSnapshot): boolean;
  totals(): readonly Totals[];
  /** How often a forwarder died. */
  readonly deaths: number;
  /** Tells all forwarders to end. */
  stop(): void;
  /** Ends all forwarders. They touch no socket afterwards. */
  close(): void;
}

export class WorkerPool implements ForwarderGroup {
  readonly #deps: PoolOptions;
  readonly #workers: readonly PoolWorker[];
  deaths = 0;

  /** Throws where a worker does not start; those that have started are ended, and close what is theirs. */
  constructor(options: PoolOptions) {
    this.#deps = options;
    this.#workers = options.jobs.map((job) => new PoolWorker(job, options, (...end) => this.#ended(...end)));
    try {
      for (const worker of this.#workers) worker.start();
    } catch (error) {
      this.stop();
      this.#end();
      throw error;
    }
  }

  ready(limit: number): boolean {
    return pollUntil(limit, () => this.#workers.every(({ state }) => state.ready || state.left));
  }

  publish(snapshot: TableSnapshot): boolean {
    for (const worker of this.#workers) worker.publish(snapshot);
    return this.#workers.every((worker) => worker.state.settled(SETTLE_MS));
  }

  totals(): readonly Totals[] {
    return this.#workers.map(({ state }) => state.read(READ_MS));
  }

  stop(): void {
    for (const { state } of this.#workers) state.stop();
  }

  close(): void {
    this.stop();
    const ended = pollUntil(STOP_MS, () => this.#workers.every((worker) => worker.ended));
    if (!ended) this.#deps.log.warn('worker did not stop in time', { listener: this.#deps.name });
    this.#end();
  }

  #end(): void {
    for (const worker of this.#workers) worker.end();
  }

  #ended(worker: PoolWorker, error: Error, started: boolean): void {
    if (started) this.deaths++;
    const { name: listener } = this.#deps;
    const again = worker.reviveLater();
    const fields = { listener, worker: worker.index, error: error.message, deaths: this.deaths, restart_ms: again };
    this.#deps.log.error(started ? 'userspace worker died' : 'userspace worker did not start', fields);
  }
}

/** Told of a thread that ended though nobody had asked it to, or of one that did not start again, and why. */
type OnEnd = (worker: PoolWorker, error: Error, started: boolean) => void;

class PoolWorker {
  readonly index: number;
  readonly state = new WorkerState();
  readonly #job: PoolJob;
  readonly #descriptors: Descriptors;
  readonly #start: StartThread;
  readonly #now: () => number;
  readonly #timer: Timer;
  readonly #onEnd: OnEnd;
  #snapshot: TableSnapshot;
  #thread: Thread | undefined;
  #snapshots: MessagePort | undefined;
  #cancelRestart: (() => void) | undefined;
  #startedAt = 0;
  #backoff: number = BACKOFF_MS.first;

  constructor(
    job: PoolJob,
    { snapshot, start = startThread, now = clockNow, timer = setTimer }: PoolOptions,
    onEnd: OnEnd,
  ) {
    this.index = job.index;
    this.#job = job;
    this.#descriptors = new Descriptors(maxDescriptors(job.preserve));
    this.#snapshot = snapshot;
    this.#start = start;
    this.#now = now;
    this.#timer = timer;
    this.#onEnd = onEnd;
    this.state.generation = snapshot.generation;
  }

  /** True if its thread touches no socket any more, or there is none. */
  get ended(): boolean {
    return this.#thread === undefined || this.state.left;
  }

  publish(snapshot: TableSnapshot): void {
    this.#snapshot = snapshot;
    this.#snapshots?.postMessage(snapshot);
    this.state.generation = snapshot.generation;
  }

  /** Throws where there is no descriptor or no thread to be had. */
  start(): void {
    const { port1, port2 } = new MessageChannel();
    port1.unref();
    try {
      this.#run(port2);
    } catch (cause) {
      port1.close();
      this.#descriptors.closeAll();
      throw new Error(`failed to start worker ${this.index}: ${explain(cause as Error)}`, { cause });
    }
    this.#snapshots = port1;
  }

  /** Starts it again after a pause, which grows as long as it does not live; the pause in milliseconds. */
  reviveLater(): number {
    const lived = this.#now() - this.#startedAt;
    if (lived > BACKOFF_MS.forgetAfter) this.#backoff = BACKOFF_MS.first;
    const pause = this.#backoff;
    this.#backoff = Math.min(pause * 2, BACKOFF_MS.most);
    this.#cancelRestart = this.#timer(pause, () => this.#revive());
    return pause;
  }

  end(): void {
    this.#cancelRestart?.();
    this.#snapshots?.close();
    this.#thread?.terminate();
  }

  #revive(): void {
    try {
      this.start();
    } catch (error) {
      this.#onEnd(this, error as Error, false);
    }
  }

  #run(snapshots: MessagePort): void {
    this.#startedAt = this.#now();
    const fd = this.#descriptors.own(check('fcntl', libc.fcntl(this.#job.fd, F_DUPFD_CLOEXEC, 0)));
    this.state.enter();
    const thread = this.#start({
      ...this.#job,
      fd,
      descriptors: this.#descriptors.memory,
      state: this.state.memory,
      snapshot: this.#snapshot,
      snapshots,
    });
    this.#thread = thread;
    let reason = new Error('it ended by itself');
    thread.on('error', (error) => {
      reason = error;
    });
    thread.on('exit', () => this.#exited(reason));
    thread.unref();
  }

  /** Only now does nothing run that could still use a descriptor of the thread's. */
  #exited(reason: Error): void {
    this.#thread = undefined;
    this.#snapshots?.close();
    this.#descriptors.closeAll();
    this.state.leave();
    if (!this.state.stopping) this.#onEnd(this, reason, true);
  }
}

/** A thread that the kernel refuses is told by Node as an error whose message is the errno. */
function explain({ message }: Error): string {
  return message === 'EAGAIN' ? 'EAGAIN: no more threads allowed (pids.max of the pod, or ulimit -u)' : message;
}

/** In a checkout the worker is a source file, in dist/ a bundle of its own, beside this code or one folder up. */
const ENTRIES = ['./worker.ts', './udp-fanout-worker.js', '../udp-fanout-worker.js'];

/** Starts a worker thread. Throws where its file is missing. */
export function startThread(job: WorkerJob): Thread {
  const entry = ENTRIES.map((path) => new URL(path, import.meta.url)).find(existsSync);
  if (!entry) throw new Error('udp-fanout-worker.js is missing beside the agent: build it with npm run build');
  return new Worker(entry, {
    name: `udp-fanout-${job.index}`,
    workerData: job,
    transferList: [job.snapshots],
    resourceLimits: RESOURCES,
    // Neither flags nor a test runner's settings are for the thread.
    execArgv: [],
  });
}
