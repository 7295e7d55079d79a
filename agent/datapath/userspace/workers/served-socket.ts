/** One of the sockets that a worker thread serves: its forwarder, the table that it goes by, and how it ends. */
import type { MSG_DONTWAIT } from '../../../ffi/mmsg.ts';
import { MSG_DONTWAIT as NOW } from '../../../ffi/mmsg.ts';
import { sharedBuffers } from '../forward/batch-buffers.ts';
import { Forwarder } from '../forward/forwarder.ts';
import type { TableSnapshot } from '../snapshot.ts';
import { Descriptors } from '../sockets/descriptors.ts';
import type { ShareJob } from './job.ts';
import { ForwarderState } from './state.ts';

/** The socket has been withdrawn when it is to end, but what was on its way to it then comes all the same. */
const ON_ITS_WAY_MS = 100;
/** What is in the buffer then is still sent, but not what a sender adds to it for ever. */
const LAST_BATCHES = 256;

export class ServedSocket {
  readonly id: number;
  readonly fd: number;
  readonly pin: boolean;
  readonly #state: ForwarderState;
  readonly #descriptors: Descriptors;
  readonly #forwarder: Forwarder;
  /** Takes the messages that wait, the newest table among them. */
  readonly #takeMessages: () => void;
  #adopted = 0;
  #endsAt: number | undefined;
  #lastBatches = LAST_BATCHES;

  constructor(job: ShareJob, takeMessages: () => void) {
    const { id, fd, pin, batchSize, maxPacketSize, coalesces } = job;
    this.id = id;
    this.fd = fd;
    this.pin = pin;
    this.#state = new ForwarderState(job.state);
    this.#descriptors = new Descriptors(job.descriptors);
    this.#takeMessages = takeMessages;
    const buffers = sharedBuffers(batchSize, maxPacketSize, coalesces);
    this.#forwarder = new Forwarder({ ...job, state: this.#state, buffers, descriptors: this.#descriptors });
    this.adopt(job.snapshot);
    this.#state.begin();
  }

  /** Goes by another table. */
  adopt(snapshot: TableSnapshot): void {
    this.#forwarder.adopt(snapshot);
    this.#adopted = snapshot.generation;
    this.#state.adopt(this.#adopted);
  }

  /** Forwards a batch, if there is one; with MSG_DONTWAIT it is not waited for. Messages that it took. */
  work(flags: 0 | typeof MSG_DONTWAIT): number {
    const count = this.#forwarder.receive(flags);
    if (count === 0) return 0;
    // Said before the generation is looked at: an agent that sees this socket at rest knows that it will see the new one.
    this.#state.work();
    try {
      if (this.#state.generation !== this.#adopted) this.#catchUp(this.#state.generation);
      this.#forwarder.forward();
    } finally {
      this.#forwarder.book();
    }
    this.#state.rest();
    return count;
  }

  get isToEnd(): boolean {
    return this.#state.stopping;
  }

  /** Goes on to its end, a batch at a time; true when there is nothing left to forward. `now` in ms. */
  goesOut(now: number): boolean {
    this.#endsAt ??= now + ON_ITS_WAY_MS;
    return now >= this.#endsAt && (this.#lastBatches-- <= 0 || this.work(NOW) === 0);
  }

  close(): void {
    this.#descriptors.closeAll();
    this.#state.leave();
  }

  /** The snapshot of a generation was posted before the generation was told. */
  #catchUp(generation: number): void {
    this.#takeMessages();
    if (this.#adopted < generation) throw new Error(`table of generation ${generation} is missing`);
  }
}
