/**
 * A listener's worker threads: started, given their tables, started again when they die, and gone before the agent is. One
 * that died, or hangs, has a socket that the kernel goes on to fill: until a thread serves it again, this one stands in.
 */
import { existsSync } from 'node:fs';
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import { now as clockNow, setTimer, type Timer } from '../../../clock.ts';
import { check } from '../../../ffi/errno.ts';
import { F_DUPFD_CLOEXEC, F_SETFL, libc } from '../../../ffi/libc.ts';
import type { Log } from '../../../log.ts';
import { maxDescriptors } from '../forward/forwarder.ts';
import type { TableSnapshot } from '../snapshot.ts';
import { Descriptors } from '../sockets/descriptors.ts';
import type { WorkerJob } from './job.ts';
import { addTotals, NO_TOTALS, pollUntil, type Totals, WorkerState } from './state.ts';

const BACKOFF_MS = { first: 100, most: 30_000, forgetAfter: 60_000 };
/** A worker that holds on to an old table for longer is named as a problem; a batch takes well below a millisecond. */
const SETTLE_MS = 500;
/** Its receive ends after 100 ms, then comes what is left in the buffer. */
const STOP_MS = 1500;
const READ_MS = 20;
/** How often the workers' pulse is taken, and how often in a row it may stand still, also while one starts. */
const PULSE = { everyMs: 400, misses: 3, missesAtStart: 25 };
/** How often is looked whether a worker that starts has started. */
const STARTING_MS = 20;
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
  /** Serves a worker's socket on this thread. */
  readonly standIn: (job: PoolJob, snapshot: TableSnapshot) => ForwarderGroup;
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
  /** By interface, datagrams that came; of a safety net. */
  readonly arrivals?: ReadonlyMap<number, number> | undefined;
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
  #cancelPulse: () => void = () => {};
  deaths = 0;

  /** Throws where a worker does not start; those that have started are ended, and close what is theirs. */
  constructor(options: PoolOptions) {
    this.#deps = options;
    this.#workers = options.jobs.map((job) => new PoolWorker(job, options, (...end) => this.#ended(...end)));
    try {
      for (const worker of this.#workers) worker.start();
      this.#takePulse();
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
    return this.#workers.every((worker) => worker.hangs || worker.state.settled(SETTLE_MS));
  }

  totals(): readonly Totals[] {
    return this.#workers.flatMap((worker) => [worker.state.read(READ_MS), ...worker.stoodIn()]);
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
    this.#cancelPulse();
    for (const worker of this.#workers) worker.end();
  }

  #takePulse(): void {
    for (const worker of this.#workers.filter((one) => one.stopsBeating())) {
      this.deaths++;
      const fields = { listener: this.#deps.name, worker: worker.index, deaths: this.deaths };
      this.#deps.log.error('userspace worker hangs, the agent stands in for it', fields);
      worker.giveUp();
    }
    const { timer = setTimer } = this.#deps;
    this.#cancelPulse = timer(PULSE.everyMs, () => this.#takePulse());
  }

  #ended(worker: PoolWorker, error: Error, started: boolean): void {
    if (started && !worker.hangs) this.deaths++;
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
  readonly #openStandIn: PoolOptions['standIn'];
  /** Its thread does nothing any more, and has not ended. */
  hangs = false;
  #standIn: ForwarderGroup | undefined;
  /** Of stand-ins that are no more. */
  #stood = NO_TOTALS;
  #pulse = 0;
  #missed = 0;
  #cancelLook: (() => void) | undefined;
  #cancelTerminate: (() => void) | undefined;
  #snapshot: TableSnapshot;
  #thread: Thread | undefined;
  #snapshots: MessagePort | undefined;
  #cancelRestart: (() => void) | undefined;
  #startedAt = 0;
  #backoff: number = BACKOFF_MS.first;

  constructor(
    job: PoolJob,
    { snapshot, standIn, start = startThread, now = clockNow, timer = setTimer }: PoolOptions,
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
    this.#openStandIn = standIn;
    this.state.generation = snapshot.generation;
  }

  /** True if its thread touches no socket any more, or there is none; or if it hangs, and will not say so. */
  get ended(): boolean {
    return this.#thread === undefined || this.state.left || this.hangs;
  }

  /** What went through this thread in its place. */
  stoodIn(): readonly Totals[] {
    return [this.#stood, ...(this.#standIn?.totals() ?? [])];
  }

  /** Looks at its pulse; true once it has stood still for too long. */
  stopsBeating(): boolean {
    const { pulse, ready } = this.state;
    if (this.#thread === undefined || this.hangs || pulse !== this.#pulse) this.#missed = 0;
    else this.#missed++;
    this.#pulse = pulse;
    return this.#missed >= (ready ? PULSE.misses : PULSE.missesAtStart);
  }

  /** Stands in for a thread that hangs; should it go on after all, it ends, and another one is started. */
  giveUp(): void {
    this.hangs = true;
    this.#missed = 0;
    this.#terminate();
    this.#stepIn();
  }

  publish(snapshot: TableSnapshot): void {
    this.#snapshot = snapshot;
    this.#snapshots?.postMessage(snapshot);
    this.state.generation = snapshot.generation;
    this.#standIn?.publish(snapshot);
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
    this.hangs = false;
    this.#stepIn();
    this.#cancelRestart = this.#timer(pause, () => this.#revive());
    return pause;
  }

  end(): void {
    this.#cancelRestart?.();
    this.#snapshots?.close();
    this.#terminate();
    this.#stepBack();
  }

  /**
   * Ends the thread, but not while it loads: koffi cannot throw in a thread that is being ended, and Node then ends the
   * process (napi_throw). One that was told to stop leaves by itself as soon as it is there.
   */
  #terminate(): void {
    const { ready, left } = this.state;
    if (this.#thread && (ready || left)) this.#thread.terminate();
    else if (this.#thread) this.#cancelTerminate = this.#timer(STARTING_MS, () => this.#terminate());
  }

  #stepIn(): void {
    this.#standIn ??= this.#openStandIn(this.#job, this.#snapshot);
  }

  #stepBack(): void {
    this.#cancelLook?.();
    if (!this.#standIn) return;
    this.#standIn.close();
    this.#stood = this.stoodIn().reduce(addTotals);
    this.#standIn = undefined;
    // The event loop has made the socket one whose receives do not wait; a worker's do.
    libc.fcntl(this.#job.fd, F_SETFL, 0);
  }

  #stepBackWhenReady(): void {
    if (this.state.ready) this.#stepBack();
    else this.#cancelLook = this.#timer(STARTING_MS, () => this.#stepBackWhenReady());
  }

  #revive(): void {
    try {
      this.start();
      this.#stepBackWhenReady();
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
    this.state.bookLost();
    this.state.leave();
    this.#cancelLook?.();
    this.#cancelTerminate?.();
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
