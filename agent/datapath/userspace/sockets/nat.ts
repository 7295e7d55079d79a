/** Sockets of this host's own address, by downstream: a connected one knows its route and hears its own errors only. */
import type { Family } from '../../../address.ts';
import type { Descriptors } from './descriptors.ts';
import type { openNatSocket } from './open.ts';

/** Sockets of its own has a downstream among the first so many of a listener: descriptors are bounded. */
export const MAX_CONNECTED = 512;

export interface NatSocket {
  readonly fd: number;
  /** Connected ones need no address with the message. */
  readonly connected: boolean;
}

/** Kept from one table to the next. */
export class NatSockets {
  readonly #connected = new Map<string, NatSocket>();
  readonly #shared = new Map<Family, NatSocket>();
  readonly #descriptors: Descriptors;
  readonly #open: typeof openNatSocket;

  constructor(descriptors: Descriptors, open: typeof openNatSocket) {
    this.#descriptors = descriptors;
    this.#open = open;
  }

  /**
   * The socket of a downstream: one that is `alone` has its own, the others share one a family. Throws SystemError
   * where there is none to be had.
   */
  of(name: string, family: Family, address: Uint8Array, alone: boolean): NatSocket {
    return this.#connected.get(name) ?? (alone ? this.#connect(name, family, address) : this.#share(family));
  }

  /** Closes those of all other downstreams. */
  keep(names: ReadonlySet<string>): void {
    for (const [name, { fd }] of this.#connected) {
      if (names.has(name)) continue;
      this.#descriptors.close(fd);
      this.#connected.delete(name);
    }
  }

  /** A downstream without a route cannot be connected to, or descriptors are short: it is sent to by address, and the send says why it fails. */
  #connect(name: string, family: Family, address: Uint8Array): NatSocket {
    try {
      const socket = { fd: this.#descriptors.ownSpare(this.#open(family, address)), connected: true };
      this.#connected.set(name, socket);
      return socket;
    } catch {
      return this.#share(family);
    }
  }

  #share(family: Family): NatSocket {
    const known = this.#shared.get(family);
    if (known) return known;
    const socket = { fd: this.#descriptors.own(this.#open(family)), connected: false };
    this.#shared.set(family, socket);
    return socket;
  }
}
