/** A forwarder's raw sockets, one a family, opened when they are first needed. */
import type { Family } from '../../../address.ts';
import type { Descriptors } from './descriptors.ts';
import type { openRawSocket } from './open.ts';

/** One that cannot be had is tried again no sooner: what lacks may be descriptors, for a moment. */
const RETRY_MS = 1000;
/** Not opened yet, or not to be had. A send by it fails. */
export const NO_RAW_SOCKET = -1;

export class RawSockets {
  /** By family. Numbers from the start: code that was optimised for another kind of value would be thrown away. */
  readonly #fds = new Int32Array(7).fill(NO_RAW_SOCKET);
  readonly #retryAt = new Float64Array(7);
  readonly #descriptors: Descriptors;
  readonly #open: typeof openRawSocket;

  constructor(descriptors: Descriptors, open: typeof openRawSocket) {
    this.#descriptors = descriptors;
    this.#open = open;
  }

  /** NO_RAW_SOCKET where there is none to be had. `now` in ms. */
  of(family: Family, now: number): number {
    const fd = this.#fds[family]!;
    return fd === NO_RAW_SOCKET ? this.#opened(family, now) : fd;
  }

  #opened(family: Family, now: number): number {
    if (now < this.#retryAt[family]!) return NO_RAW_SOCKET;
    try {
      this.#fds[family] = this.#descriptors.own(this.#open(family));
    } catch {
      this.#retryAt[family] = now + RETRY_MS;
    }
    return this.#fds[family]!;
  }
}
