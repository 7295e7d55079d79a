/**
 * A UDP socket that is connected to one address, so that the kernel drops what comes from elsewhere, and tells us of ICMP
 * errors that quote a datagram of this very socket (udp(7), ECONNREFUSED).
 */
import { createSocket, type Socket } from 'node:dgram';
import type { SocketAddress } from '../address.ts';
import type { Hint } from './prober.ts';

export interface ConnectedSocketEvents {
  readonly onMessage: (message: Buffer) => void;
  /** Also called within `send`. */
  readonly onError: (error: NodeJS.ErrnoException) => void;
}

/** What an error says of the downstream; the others are this host's own. */
export const HINT_OF: Readonly<Record<string, Hint>> = {
  ECONNREFUSED: 'port_unreachable',
  EHOSTUNREACH: 'host_unreachable',
  ENETUNREACH: 'host_unreachable',
};

export class ConnectedSocket {
  readonly #socket: Socket;
  readonly #events: ConnectedSocketEvents;
  /** What was sent before the socket was connected; undefined since. */
  #early: (string | Uint8Array)[] | undefined = [];
  #failure: NodeJS.ErrnoException | undefined;
  #closed = false;

  constructor({ family, ip, port }: SocketAddress, events: ConnectedSocketEvents) {
    this.#events = events;
    this.#socket = createSocket(family === 4 ? 'udp4' : 'udp6');
    this.#socket.on('message', (message) => events.onMessage(message));
    this.#socket.on('error', (error: NodeJS.ErrnoException) => events.onError(error));
    // Called with an error too, which Node does not say in its types.
    this.#socket.connect(port, ip, (error?: NodeJS.ErrnoException) => this.#connected(error));
  }

  send(data: string | Uint8Array): void {
    if (this.#failure) this.#events.onError(this.#failure);
    else if (this.#early) this.#early.push(data);
    else this.#transmit(data);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.close();
  }

  #connected(error?: NodeJS.ErrnoException): void {
    if (this.#closed) return;
    const early = this.#early ?? [];
    this.#early = undefined;
    this.#failure = error;
    if (error) this.#events.onError(error);
    else for (const data of early) this.#transmit(data);
  }

  #transmit(data: string | Uint8Array): void {
    this.#socket.send(data, (error) => error && this.#events.onError(error as NodeJS.ErrnoException));
  }
}
