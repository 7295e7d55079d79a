/** A listener's worker threads: started, given their tables, started again when they die, and gone before the agent is. */
import { existsSync } from 'node:fs';
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import type { Log } from '../../../log.ts';
import type { TableSnapshot } from '../snapshot.ts';
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

export interface PoolOptions {
  readonly log: Log;
  /** The listener's name. */
  readonly name: string;
  /** Jobs but for what the pool makes itself, one for each worker. */
  readonly jobs: readonly Omit<WorkerJob, 'state' | 'snapshot' | 'snapshots'>[];
  readonly snapshot: TableSnapshot;
  readonly start?: StartThread;
}

/** What forwards a listener's datagrams, whether threads of a pool or the agent's own. */
export interface ForwarderGroup {
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

  constructor(options: PoolOptions) {
    this.#deps = options;
    const start = options.start ?? startThread;
    this.#workers = options.jobs.map(
      (job) => new PoolWorker(job, options.snapshot, start, (worker, error) => this.#died(worker, error)),
    );
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
    for (const worker of this.#workers) worker.end();
  }

  #died(worker: PoolWorker, error: Error): void {
    this.deaths++;
    const { name: listener } = this.#deps;
    const again = worker.reviveLater();
    const fields = { listener, worker: worker.index, error: error.message, deaths: this.deaths, restart_ms: again };
    this.#deps.log.error('userspace worker died', fields);
  }
}

class PoolWorker {
  readonly index: number;
  readonly state = new WorkerState();
  readonly #job: PoolOptions['jobs'][number];
  readonly #start: StartThread;
  readonly #onDeath: (worker: PoolWorker, error: Error) => void;
  #snapshot: TableSnapshot;
  #thread: Thread | undefined;
  #snapshots: MessagePort | undefined;
  #timer: NodeJS.Timeout | undefined;
  #startedAt = 0;
  #backoff: number = BACKOFF_MS.first;

  constructor(
    job: PoolOptions['jobs'][number],
    snapshot: TableSnapshot,
    start: StartThread,
    onDeath: (worker: PoolWorker, error: Error) => void,
  ) {
    this.index = job.index;
    this.#job = job;
    this.#snapshot = snapshot;
    this.#start = start;
    this.#onDeath = onDeath;
    this.state.generation = snapshot.generation;
    this.#run();
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

  /** Starts it again after a pause, which grows as long as it does not live; the pause in milliseconds. */
  reviveLater(): number {
    const lived = performance.now() - this.#startedAt;
    if (lived > BACKOFF_MS.forgetAfter) this.#backoff = BACKOFF_MS.first;
    const pause = this.#backoff;
    this.#backoff = Math.min(pause * 2, BACKOFF_MS.most);
    this.#timer = setTimeout(() => this.#run(), pause).unref();
    return pause;
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#snapshots?.close();
    this.#thread?.terminate();
  }

  #run(): void {
    if (this.state.stopping) return;
    const { port1, port2 } = new MessageChannel();
    port1.unref();
    this.#snapshots = port1;
    this.#startedAt = performance.now();
    const thread = this.#start({ ...this.#job, state: this.state.memory, snapshot: this.#snapshot, snapshots: port2 });
    this.#thread = thread;
    let reason = new Error('it ended by itself');
    thread.on('error', (error) => {
      reason = error;
    });
    thread.on('exit', () => {
      this.#thread = undefined;
      port1.close();
      if (this.state.stopping) return;
      this.state.revive();
      this.#onDeath(this, reason);
    });
    thread.unref();
  }
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
