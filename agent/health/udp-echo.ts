/**
 * Probes by a datagram that the receiver sends back as it is (RFC 862). Each downstream has a connected socket, so that
 * the kernel drops what comes from elsewhere, and tells us of an ICMP port unreachable (udp(7), ECONNREFUSED).
 */
import { createSocket, type Socket } from 'node:dgram';
import { formatAddress, type SocketAddress } from '../address.ts';
import type { Hint, OnHint, OpenProber, ProbeCallbacks, Prober } from './prober.ts';
import { newToken } from './token.ts';

/** Silent probes after which a socket is replaced: it may be bound to a source address that the node has lost. */
const SILENT = 3;

const HINT_OF: Readonly<Record<string, Hint>> = {
  ECONNREFUSED: 'port_unreachable',
  EHOSTUNREACH: 'host_unreachable',
  ENETUNREACH: 'host_unreachable',
};

/** Needs no capability. */
export const openUdpEcho: OpenProber = (onHint) => new UdpEchoProber(onHint);

class UdpEchoProber implements Prober {
  readonly #lines = new Map<string, Line>();
  readonly #onHint: OnHint;

  constructor(onHint: OnHint) {
    this.#onHint = onHint;
  }

  keyOf(address: SocketAddress): string {
    return formatAddress(address);
  }

  send(address: SocketAddress, callbacks: ProbeCallbacks): () => void {
    const key = formatAddress(address);
    let line = this.#lines.get(key);
    if (!line || line.silent >= SILENT) {
      line?.close();
      line = new Line(address, this.#onHint);
      this.#lines.set(key, line);
    }
    return line.send(callbacks);
  }

  release(address: SocketAddress): void {
    const key = formatAddress(address);
    this.#lines.get(key)?.close();
    this.#lines.delete(key);
  }

  close(): void {
    for (const line of this.#lines.values()) line.close();
    this.#lines.clear();
  }
}

/** The socket to one downstream. */
class Line {
  /** Probes since the last right answer. */
  silent = 0;
  readonly #address: SocketAddress;
  readonly #onHint: OnHint;
  readonly #socket: Socket;
  /** By what was sent; undefined for what is forgotten, whose answer would be late and not wrong. */
  readonly #sent = new Map<string, ProbeCallbacks | undefined>();
  #connected = false;
  #failure: NodeJS.ErrnoException | undefined;
  #closed = false;

  constructor(address: SocketAddress, onHint: OnHint) {
    this.#address = address;
    this.#onHint = onHint;
    this.#socket = createSocket(address.family === 4 ? 'udp4' : 'udp6');
    this.#socket.on('message', (message) => this.#receive(message.toString('latin1')));
    this.#socket.on('error', (error: NodeJS.ErrnoException) => this.#failed(error));
    this.#socket.connect(address.port, address.ip, (error?: NodeJS.ErrnoException) => this.#connect(error));
  }

  send(callbacks: ProbeCallbacks): () => void {
    this.silent++;
    const text = `udp-fanout health ${newToken().toString('hex')}\n`;
    this.#sent.set(text, callbacks);
    if (this.#failure) this.#failed(this.#failure);
    else if (this.#connected) this.#transmit(text);
    return () => this.#sent.has(text) && this.#sent.set(text, undefined);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.close();
  }

  /** Called with an error too, which Node does not say in its types. */
  #connect(error?: NodeJS.ErrnoException): void {
    if (this.#closed) return;
    this.#failure = error;
    this.#connected = error === undefined;
    if (error) this.#failed(error);
    else for (const [text, callbacks] of this.#sent) if (callbacks) this.#transmit(text);
  }

  #transmit(text: string): void {
    this.#socket.send(text, (error) => error && this.#failed(error as NodeJS.ErrnoException));
  }

  #receive(text: string): void {
    const callbacks = this.#sent.get(text);
    if (callbacks) {
      this.silent = 0;
      this.#sent.clear();
      callbacks.answer();
    } else if (!this.#sent.has(text) && this.#isAsking()) this.#onHint(this.#address, 'wrong_answer');
  }

  #isAsking(): boolean {
    return [...this.#sent.values()].some((callbacks) => callbacks !== undefined);
  }

  #failed({ code = 'error', message }: NodeJS.ErrnoException): void {
    const hint = HINT_OF[code];
    if (hint) this.#onHint(this.#address, hint);
    else for (const callbacks of this.#sent.values()) callbacks?.unsent(message);
  }
}
