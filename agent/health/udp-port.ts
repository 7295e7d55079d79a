/**
 * Probes of a port that owes nobody an answer: an echo request for the host, and when that is answered an empty datagram
 * for the port. A port unreachable is a no, silence a yes, and so is whatever the receiver may answer. Silence of a host
 * that answers no echo request says nothing, since a dead one is as silent.
 */
import { formatAddress, type SocketAddress } from '../address.ts';
import type { Timer } from '../clock.ts';
import { ConnectedSocket, HINT_OF } from './connected-socket.ts';
import type { OnHint, OpenProber, ProbeCallbacks, Prober } from './prober.ts';

/**
 * Share of a round's timeout in which the port may say no. Three probes begin within two thirds of it, and the last one
 * has to end before it.
 */
const QUIET_SHARE = 1 / 4;
const EMPTY = new Uint8Array(0);

export interface UdpPortOptions {
  readonly timer: Timer;
  /** Of a whole round. */
  readonly timeoutMs: number;
}

/** `openEcho` asks the hosts; where it says that its probes do not leave, the ports are asked all the same. */
export function openUdpPort(openEcho: OpenProber, { timer, timeoutMs }: UdpPortOptions): OpenProber {
  return (onHint) => new UdpPortProber(openEcho(onHint), onHint, timer, timeoutMs * QUIET_SHARE);
}

/** Stands in for echo requests where there are none to be had, and says why at each of its probes. */
export function withoutEcho(cause: string): OpenProber {
  const send: Prober['send'] = (_, callbacks) => {
    callbacks.unsent(cause);
    return () => {};
  };
  return () => ({ keyOf: ({ ip }) => ip, send, release() {}, close() {} });
}

class UdpPortProber implements Prober {
  readonly #echo: Prober;
  readonly #onHint: OnHint;
  readonly #timer: Timer;
  readonly #quietMs: number;
  readonly #ports = new Map<string, Port>();

  constructor(echo: Prober, onHint: OnHint, timer: Timer, quietMs: number) {
    this.#echo = echo;
    this.#onHint = onHint;
    this.#timer = timer;
    this.#quietMs = quietMs;
  }

  keyOf(address: SocketAddress): string {
    return formatAddress(address);
  }

  send(address: SocketAddress, callbacks: ProbeCallbacks): () => void {
    const port = this.#portOf(address);
    let forgetPort = () => {};
    let forgotten = false;
    const forgetEcho = this.#echo.send(address, {
      answer: () => {
        if (!forgotten) forgetPort = port.ask(callbacks);
      },
      refused: (hint) => callbacks.refused(hint),
      unsent: (cause) => {
        callbacks.unsent(cause);
        // Nobody vouches for the host, so silence is no answer; a no is one.
        if (!forgotten) forgetPort = port.ask({ answer() {}, unsent() {}, refused: (hint) => callbacks.refused(hint) });
      },
    });
    return () => {
      forgotten = true;
      forgetEcho();
      forgetPort();
    };
  }

  release(address: SocketAddress): void {
    const key = formatAddress(address);
    this.#ports.get(key)?.close();
    this.#ports.delete(key);
    this.#echo.release(address);
  }

  close(): void {
    for (const port of this.#ports.values()) port.close();
    this.#ports.clear();
    this.#echo.close();
  }

  #portOf(address: SocketAddress): Port {
    const key = formatAddress(address);
    const known = this.#ports.get(key);
    if (known && !known.isBroken) return known;
    known?.close();
    const port = new Port(address, this.#onHint, (task) => this.#timer(this.#quietMs, task));
    this.#ports.set(key, port);
    return port;
  }
}

/** One who waits for what the port says. */
interface Asker {
  readonly callbacks: ProbeCallbacks;
  readonly forget: () => void;
}

/** One downstream's port. */
class Port {
  /** Its socket failed for a reason of this host's: it may be bound to a source address that the node has lost. */
  isBroken = false;
  readonly #address: SocketAddress;
  readonly #onHint: OnHint;
  readonly #later: (task: () => void) => () => void;
  readonly #socket: ConnectedSocket;
  readonly #askers = new Set<Asker>();

  constructor(address: SocketAddress, onHint: OnHint, later: (task: () => void) => () => void) {
    this.#address = address;
    this.#onHint = onHint;
    this.#later = later;
    this.#socket = new ConnectedSocket(address, {
      onMessage: () => this.#tell(({ callbacks }) => callbacks.answer()),
      onError: (error) => this.#failed(error),
    });
  }

  /** Sends an empty datagram; silence is an answer after a while. The function returned forgets it. */
  ask(callbacks: ProbeCallbacks): () => void {
    const cancel = this.#later(() => {
      this.#askers.delete(asker);
      callbacks.answer();
    });
    const forget = () => {
      cancel();
      this.#askers.delete(asker);
    };
    const asker = { callbacks, forget };
    this.#askers.add(asker);
    this.#socket.send(EMPTY);
    return forget;
  }

  close(): void {
    for (const { forget } of this.#askers) forget();
    this.#socket.close();
  }

  #failed({ code = 'error', message }: NodeJS.ErrnoException): void {
    const hint = HINT_OF[code];
    if (!hint) {
      this.isBroken = true;
      this.#tell(({ callbacks }) => callbacks.unsent(message));
    } else if (this.#askers.size > 0) this.#tell(({ callbacks }) => callbacks.refused(hint));
    // It came too late to be an answer, and so is only a sign.
    else this.#onHint(this.#address, hint);
  }

  #tell(say: (asker: Asker) => void): void {
    for (const asker of [...this.#askers]) {
      asker.forget();
      say(asker);
    }
  }
}
