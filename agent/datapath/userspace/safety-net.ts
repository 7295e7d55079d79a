/**
 * The safety net's forwarder: the agent's own thread, woken by the event loop. What the kernel path leaves over is little,
 * and a thread of its own would cost every idle node ten MiB; until the first datagram comes this costs a descriptor.
 */
import { now, setTimer } from '../../clock.ts';
import { MSG_DONTWAIT } from '../../ffi/mmsg.ts';
import { watchReadable } from '../../ffi/poll.ts';
import type { Log } from '../../log.ts';
import { LogLimiter } from '../../log-limit.ts';
import { sharedBuffers } from './forward/batch-buffers.ts';
import { Forwarder, type ForwarderOptions, maxDescriptors } from './forward/forwarder.ts';
import type { ForwarderGroup } from './forwarder-group.ts';
import type { TableSnapshot } from './snapshot.ts';
import { Descriptors } from './sockets/descriptors.ts';
import { ForwarderState, pollUntil, type Totals } from './workers/state.ts';

/** Batches in a row before the event loop has its turn: readiness, metrics and the reconciler live there too. */
const BATCHES_A_TURN = 4;
const PAUSE_MS = 1000;
const LAST_BATCHES = 256;
const ON_ITS_WAY_MS = 1;

export interface SafetyNetOptions extends Omit<ForwarderOptions, 'buffers' | 'state' | 'descriptors'> {
  readonly log: Log;
  readonly name: string;
  readonly snapshot: TableSnapshot;
  /** Whether the socket has UDP_GRO. */
  readonly coalesces: boolean;
}

export class SafetyNet implements ForwarderGroup {
  readonly #deps: SafetyNetOptions;
  readonly #state = new ForwarderState();
  readonly #descriptors: Descriptors;
  readonly #alerts: LogLimiter;
  #snapshot: TableSnapshot;
  #forwarder: Forwarder | undefined;
  #watch: { close(): void } | undefined;
  #cancelPause: (() => void) | undefined;
  deaths = 0;

  /** By interface, where the socket tells it. */
  get arrivals(): ReadonlyMap<number, number> | undefined {
    return this.#deps.arrivals;
  }

  constructor(options: SafetyNetOptions) {
    this.#deps = options;
    this.#alerts = new LogLimiter({ log: options.log, now, timer: setTimer });
    this.#descriptors = new Descriptors(maxDescriptors(options.preserve));
    this.#snapshot = options.snapshot;
    this.#listen();
  }

  ready(): boolean {
    return true;
  }

  publish(snapshot: TableSnapshot): boolean {
    this.#snapshot = snapshot;
    this.#forwarder?.adopt(snapshot);
    return true;
  }

  totals(): readonly Totals[] {
    return [this.#state.read(0)];
  }

  stop(): void {}

  close(): void {
    this.#watch?.close();
    this.#cancelPause?.();
    // What was on its way to the socket when it was withdrawn. Where nothing ever came, nothing does now.
    if (this.#forwarder) pollUntil(ON_ITS_WAY_MS, () => false);
    this.#try(LAST_BATCHES);
    this.#descriptors.closeAll();
    this.#alerts.close();
  }

  #listen(): void {
    this.#watch = watchReadable(this.#deps.fd, () => {
      if (!this.#try(BATCHES_A_TURN)) this.#rest();
    });
  }

  /** Forwards up to so many batches; false if something is wrong, of which the log says what. */
  #try(batches: number): boolean {
    try {
      for (let batch = 0; batch < batches && this.#work() > 0; batch++);
      this.#alerts.resolve('work', { message: 'safety net works again', fields: { listener: this.#deps.name } });
      return true;
    } catch (cause) {
      this.deaths++;
      this.#state.bookLost();
      const error = (cause as Error).message;
      const fields = { listener: this.#deps.name, error };
      this.#alerts.raise('work', { message: 'safety net failed', fields, level: 'error', cause: error });
      return false;
    }
  }

  #work(): number {
    this.#forwarder ??= this.#open();
    const count = this.#forwarder.receive(MSG_DONTWAIT);
    if (count === 0) return 0;
    try {
      this.#forwarder.forward();
    } finally {
      this.#forwarder.book();
    }
    return count;
  }

  #open(): Forwarder {
    const { batchSize, maxPacketSize, coalesces } = this.#deps;
    const buffers = sharedBuffers(batchSize, maxPacketSize, coalesces);
    const forwarder = new Forwarder({
      ...this.#deps,
      state: this.#state,
      descriptors: this.#descriptors,
      buffers,
    });
    forwarder.adopt(this.#snapshot);
    return forwarder;
  }

  /** Begins anew after a while. */
  #rest(): void {
    this.#watch?.close();
    this.#descriptors.closeAll();
    this.#forwarder = undefined;
    this.#cancelPause = setTimer(PAUSE_MS, () => this.#listen());
  }
}
