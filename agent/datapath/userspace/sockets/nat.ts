/** Sockets of this host's own address, by downstream: a connected one knows its route and hears its own errors only. */
import type { Family } from '../../../address.ts';
import { libc } from '../../../ffi/libc.ts';
import { openNatSocket } from './open.ts';

export interface NatSocket {
  readonly fd: number;
  /** Connected ones need no address with the message. */
  readonly connected: boolean;
}

/** Kept from one table to the next. */
export interface NatSockets {
  /** The socket of a downstream: one that is `alone` has its own, the others share one a family. */
  of(name: string, family: Family, address: Uint8Array, alone: boolean): NatSocket;
  /** Closes those of downstreams that are gone. */
  keep(names: ReadonlySet<string>): void;
  close(): void;
}

export function openNatSockets(open: typeof openNatSocket = openNatSocket): NatSockets {
  return new Sockets(open);
}

class Sockets implements NatSockets {
  readonly #connected = new Map<string, NatSocket>();
  readonly #shared = new Map<Family, NatSocket>();
  readonly #open: typeof openNatSocket;

  constructor(open: typeof openNatSocket) {
    this.#open = open;
  }

  of(name: string, family: Family, address: Uint8Array, alone: boolean): NatSocket {
    return this.#connected.get(name) ?? (alone ? this.#connect(name, family, address) : this.#share(family));
  }

  keep(names: ReadonlySet<string>): void {
    for (const [name, { fd }] of this.#connected) {
      if (names.has(name)) continue;
      libc.close(fd);
      this.#connected.delete(name);
    }
  }

  close(): void {
    this.keep(new Set());
    for (const { fd } of this.#shared.values()) libc.close(fd);
    this.#shared.clear();
  }

  /** A downstream without a route cannot be connected to: it is sent to by address, and the send says why it fails. */
  #connect(name: string, family: Family, address: Uint8Array): NatSocket {
    try {
      const socket = { fd: this.#open(family, address), connected: true };
      this.#connected.set(name, socket);
      return socket;
    } catch {
      return this.#share(family);
    }
  }

  #share(family: Family): NatSocket {
    const known = this.#shared.get(family);
    if (known) return known;
    const socket = { fd: this.#open(family), connected: false };
    this.#shared.set(family, socket);
    return socket;
  }
}
