/**
 * One thread of the pool, as the agent sees it: started, given the shares that it serves, started again when it dies. Until
 * a thread serves them again, the kernel goes on to fill their sockets: the agent stands in.
 */
import { existsSync } from 'node:fs';
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import type { Timer } from '../../../clock.ts';
import type { TableSnapshot } from '../snapshot.ts';
import { Descriptors } from '../sockets/descriptors.ts';
import type { ThreadJob, ThreadMessage } from './job.ts';
import type { Share } from './share.ts';
import { ThreadState } from './thread-state.ts';

const BACKOFF_MS = { first: 100, most: 30_000, forgetAfter: 60_000 };
/** How often in a row its pulse may stand still, also while it starts. */
const MISSES = { most: 3, atStart: 25 };
/** How often is looked whether a thread that starts has started. */
const STARTING_MS = 20;
/** Keeps a thread to a few MiB: its heap holds code and tables of addresses, batches and slots are outside of it. */
const RESOURCES = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 2, stackSizeMb: 1 };
/** What it opens whatever it serves: one to wait for many sockets by. */
const OWN_DESCRIPTORS = 1;

/** The parts of a worker_threads.Worker that the pool needs. */
export interface Thread {
  on(event: 'error', listener: (error: Error) => void): unknown;
  on(event: 'exit', listener: (code: number) => void): unknown;
  unref(): void;
  terminate(): unknown;
}

export type StartThread = (job: ThreadJob) => Thread;

export interface PoolThreadOptions {
  readonly index: number;
  readonly cpus: readonly number[];
  readonly start: StartThread;
  readonly now: () => number;
  readonly timer: Timer;
  /** Told of a thread that ended though nobody had asked it to, or of one that did not start again, and why. */
  readonly onEnd: (thread: PoolThread, error: Error, started: boolean) => void;
}

export class PoolThread {
  readonly index: number;
  readonly state = new ThreadState();
  /** Those that it serves, or is to serve as soon as it can; and those that it has not let go of yet. */
  readonly shares = new Set<Share>();
  /** It does nothing any more, and has not ended. */
  hangs = false;
  readonly #deps: PoolThreadOptions;
  readonly #descriptors = new Descriptors(OWN_DESCRIPTORS);
  #pulse = 0;
  #missed = 0;
  #cancelLook: (() => void) | undefined;
  #cancelTerminate: (() => void) | undefined;
  #cancelRestart: (() => void) | undefined;
  #thread: Thread | undefined;
  #messages: MessagePort | undefined;
  #startedAt = 0;
  #backoff: number = BACKOFF_MS.first;

  constructor(options: PoolThreadOptions) {
    this.#deps = options;
    this.index = options.index;
  }

  /** False if it touches no socket any more, or hangs and will not say so. */
  get serves(): boolean {
    return this.#thread !== undefined && !this.hangs && !this.state.left;
  }

  /** Starts it for the shares that it has. Throws where there is no descriptor or no thread to be had. */
  start(): void {
    const { port1, port2 } = new MessageChannel();
    port1.unref();
    try {
      const jobs = [...this.shares].map((share) => share.give());
      this.#run(port2);
      this.#messages = port1;
      for (const serve of jobs) this.#post({ serve });
    } catch (cause) {
      port1.close();
      for (const share of this.shares) share.takeBack();
      throw new Error(`failed to start worker ${this.index}: ${explain(cause as Error)}`, { cause });
    }
  }

  /** Throws SystemError where there is no descriptor to be had. */
  serve(share: Share): void {
    if (this.serves) this.#post({ serve: share.give() });
    else share.stepIn();
    this.shares.add(share);
  }

  /** Has a share go by another snapshot. */
  publish(share: Share, snapshot: TableSnapshot): void {
    if (this.#messages) this.#post({ id: share.id, snapshot });
    share.goBy(snapshot);
  }

  /** Forgets the shares that were told to stop and have. */
  forget(): void {
    for (const share of this.shares) {
      const isDone = share.state.left || this.#thread === undefined;
      if (share.state.stopping && isDone) this.shares.delete(share);
    }
  }

  /** Looks at its pulse; true once it has stood still for too long. */
  stopsBeating(): boolean {
    const { pulse, ready } = this.state;
    if (this.#thread === undefined || this.hangs || pulse !== this.#pulse) this.#missed = 0;
    else this.#missed++;
    this.#pulse = pulse;
    return this.#missed >= (ready ? MISSES.most : MISSES.atStart);
  }

  /** Stands in for a thread that hangs; should it go on after all, it ends, and another one is started. */
  giveUp(): void {
    this.hangs = true;
    this.#missed = 0;
    this.state.giveUp();
    this.terminate();
    this.#stepIn();
  }

  /** Starts it again after a pause, which grows as long as it does not live; the pause in milliseconds. */
  reviveLater(): number {
    const lived = this.#deps.now() - this.#startedAt;
    if (lived > BACKOFF_MS.forgetAfter) this.#backoff = BACKOFF_MS.first;
    const pause = this.#backoff;
    this.#backoff = Math.min(pause * 2, BACKOFF_MS.most);
    this.hangs = false;
    this.#stepIn();
    this.#cancelRestart = this.#deps.timer(pause, () => this.#revive());
    return pause;
  }

  /** Tells it to end: it does so by itself, and is not started again. */
  stop(): void {
    this.#cancelRestart?.();
    this.#cancelLook?.();
    this.state.stop();
  }

  /**
   * Ends it from outside, but not while it loads: koffi cannot throw in a thread that is being ended, and Node then ends the
   * process (napi_throw). Nor while it receives, or what it has just received would be in nobody's books. One that was told
   * to end leaves by itself as soon as it is there.
   */
  terminate(): void {
    const { ready, left } = this.state;
    const takes = [...this.shares].some(({ state }) => state.takes);
    if (this.#thread && ((ready && !takes) || left)) this.#thread.terminate();
    else if (this.#thread) this.#cancelTerminate = this.#deps.timer(STARTING_MS, () => this.terminate());
  }

  #post(message: ThreadMessage): void {
    this.#messages!.postMessage(message);
    this.state.tell();
  }

  #stepIn(): void {
    for (const share of this.shares) share.stepIn();
  }

  #stepBackWhenReady(): void {
    for (const share of this.shares) if (share.state.ready) share.stepBack();
    if (![...this.shares].some((share) => share.isStoodInFor)) return;
    this.#cancelLook = this.#deps.timer(STARTING_MS, () => this.#stepBackWhenReady());
  }

  #revive(): void {
    try {
      this.start();
      this.#stepBackWhenReady();
    } catch (error) {
      this.#deps.onEnd(this, error as Error, false);
    }
  }

  #run(messages: MessagePort): void {
    const { cpus, start, now } = this.#deps;
    this.#startedAt = now();
    this.state.enter();
    const thread = start({
      index: this.index,
      state: this.state.memory,
      descriptors: this.#descriptors.memory,
      messages,
      cpu: cpus[this.index % cpus.length]!,
      cpus,
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
    this.#messages?.close();
    this.#messages = undefined;
    this.#descriptors.closeAll();
    for (const share of this.shares) share.takeBack();
    this.forget();
    this.#cancelLook?.();
    this.#cancelTerminate?.();
    if (!this.state.stopping) this.#deps.onEnd(this, reason, true);
  }
}

/** A thread that the kernel refuses is told by Node as an error whose message is the errno. */
function explain({ message }: Error): string {
  return message === 'EAGAIN' ? 'EAGAIN: no more threads allowed (pids.max of the pod, or ulimit -u)' : message;
}

/** In a checkout the worker is a source file, in dist/ a bundle of its own, beside this code or one folder up. */
const ENTRIES = ['./worker.ts', './udp-fanout-worker.js', '../udp-fanout-worker.js'];

/** Starts a worker thread. Throws where its file is missing. */
export function startThread(job: ThreadJob): Thread {
  const entry = ENTRIES.map((path) => new URL(path, import.meta.url)).find(existsSync);
  if (!entry) throw new Error('udp-fanout-worker.js is missing beside the agent: build it with npm run build');
  return new Worker(entry, {
    name: `udp-fanout-${job.index}`,
    workerData: job,
    transferList: [job.messages],
    resourceLimits: RESOURCES,
    // Neither flags nor a test runner's settings are for the thread.
    execArgv: [],
  });
}
