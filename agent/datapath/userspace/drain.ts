/**
 * The safety net's forwarder: the agent's own thread, woken by the event loop. What the kernel path leaves over is little,
 * and a thread of its own would cost every idle node ten MiB; until the first datagram comes this costs a descriptor.
 */
import { now, setTimer } from '../../clock.ts';
import { MSG_DONTWAIT } from '../../ffi/mmsg.ts';
import { watchReadable } from '../../ffi/poll.ts';
import type { Log } from '../../log.ts';
import { Troubles } from '../../troubles.ts';
import { Forwarder, type ForwarderOptions } from './forwarder.ts';
import type { Service } from './pool.ts';
import type { Scratch } from './scratch.ts';
import type { TableImage } from './table.ts';
import { Tally, type Totals } from './tally.ts';

/** Batches in a row before the event loop has its turn: readiness, metrics and the reconciler live there too. */
const BATCHES_A_TURN = 4;
const PAUSE_MS = 1000;
const LAST_BATCHES = 256;

export interface DrainOptions extends Omit<ForwarderOptions, 'scratch' | 'tally' | 'index'> {
  readonly log: Log;
  readonly name: string;
  readonly image: TableImage;
  /** Made for the first datagram, shared by all drains of the thread. */
  readonly scratch: () => Scratch;
}

export class Drain implements Service {
  readonly #with: DrainOptions;
  readonly #tally = new Tally();
  readonly #troubles: Troubles;
  #image: TableImage;
  #forwarder: Forwarder | undefined;
  #watch: { close(): void } | undefined;
  #pause: NodeJS.Timeout | undefined;
  deaths = 0;

  constructor(options: DrainOptions) {
    this.#with = options;
    this.#troubles = new Troubles({ log: options.log, now, timer: setTimer });
    this.#image = options.image;
    this.#listen();
  }

  publish(image: TableImage): boolean {
    this.#image = image;
    this.#forwarder?.adopt(image);
    return true;
  }

  totals(): readonly Totals[] {
    return [this.#tally.read(0)];
  }

  stop(): void {}

  close(): void {
    this.#watch?.close();
    clearTimeout(this.#pause);
    this.#try(LAST_BATCHES);
    this.#forwarder?.close();
    this.#troubles.close();
  }

  #listen(): void {
    this.#watch = watchReadable(this.#with.fd, () => {
      if (!this.#try(BATCHES_A_TURN)) this.#rest();
    });
  }

  /** Forwards up to so many batches; false if something is wrong, of which the log says what. */
  #try(batches: number): boolean {
    try {
      for (let batch = 0; batch < batches && this.#work() > 0; batch++);
      this.#troubles.isOver('work', { message: 'safety net works again', fields: { listener: this.#with.name } });
      return true;
    } catch (cause) {
      this.deaths++;
      const error = (cause as Error).message;
      const fields = { listener: this.#with.name, error };
      this.#troubles.happens('work', { message: 'safety net failed', fields, level: 'error', cause: error });
      return false;
    }
  }

  #work(): number {
    this.#forwarder ??= this.#open();
    const count = this.#forwarder.receive(MSG_DONTWAIT);
    if (count > 0) this.#forwarder.forward(count);
    return count;
  }

  #open(): Forwarder {
    const forwarder = new Forwarder({ ...this.#with, index: 0, tally: this.#tally, scratch: this.#with.scratch() });
    forwarder.adopt(this.#image);
    return forwarder;
  }

  /** Begins anew after a while. */
  #rest(): void {
    this.#watch?.close();
    this.#forwarder?.close();
    this.#forwarder = undefined;
    this.#pause = setTimeout(() => this.#listen(), PAUSE_MS).unref();
  }
}
