/** Probes by a datagram that the receiver sends back as it is (RFC 862), from a socket for each downstream. */
import { formatAddress, type SocketAddress } from '../address.ts';
import { ConnectedSocket, HINT_OF } from './connected-socket.ts';
import type { OnHint, OpenProber, ProbeCallbacks, Prober } from './prober.ts';
import { newToken } from './token.ts';

/** Silent probes after which a socket is replaced: it may be bound to a source address that the node has lost. */
const SILENT = 3;

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
  readonly #socket: ConnectedSocket;
  /** By what was sent; undefined for what is forgotten, whose answer would be late and not wrong. */
  readonly #sent = new Map<string, ProbeCallbacks | undefined>();

  constructor(address: SocketAddress, onHint: OnHint) {
    this.#address = address;
    this.#onHint = onHint;
    this.#socket = new ConnectedSocket(address, {
      onMessage: (message) => this.#receive(message.toString('latin1')),
      onError: (error) => this.#failed(error),
    });
  }

  send(callbacks: ProbeCallbacks): () => void {
    this.silent++;
    const text = `udp-fanout health ${newToken().toString('hex')}\n`;
    this.#sent.set(text, callbacks);
    this.#socket.send(text);
    return () => this.#sent.has(text) && this.#sent.set(text, undefined);
  }

  close(): void {
    this.#socket.close();
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
