/** A forwarder's raw sockets, one a family, opened when they are first needed. */
import type { Family } from '../../../address.ts';
import type { Descriptors } from './descriptors.ts';
import type { openRawSocket } from './open.ts';

/** One that cannot be had is tried again no sooner: what lacks may be descriptors, for a moment. */
const RETRY_MS = 1000;

interface RawSocket {
  fd: number | undefined;
  retryAt: number;
}

export class RawSockets {
  readonly #sockets: Readonly<Record<Family, RawSocket>> = {
    4: { fd: undefined, retryAt: 0 },
    6: { fd: undefined, retryAt: 0 },
  };
  readonly #descriptors: Descriptors;
  readonly #open: typeof openRawSocket;

  constructor(descriptors: Descriptors, open: typeof openRawSocket) {
    this.#descriptors = descriptors;
    this.#open = open;
  }

  /** Undefined where there is none to be had. `now` in ms. */
  of(family: Family, now: number): number | undefined {
    const socket = this.#sockets[family];
    if (socket.fd === undefined && now >= socket.retryAt) {
      try {
        socket.fd = this.#descriptors.own(this.#open(family));
      } catch {
        socket.retryAt = now + RETRY_MS;
      }
    }
    return socket.fd;
  }
}
