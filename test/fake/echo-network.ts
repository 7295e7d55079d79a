/** A network of hosts that answer echo requests, each in its own way, as raw sockets see it: bytes out, bytes in. */
import type { Family } from '../../agent/address.ts';
import { ECHO } from '../../agent/health/echo.ts';
import type { OpenEchoSocket } from '../../agent/health/echo-socket.ts';
import type { FakeTimer } from './timer.ts';

/** How a host treats a request; what is left out is as a healthy host does it. */
export interface Manners {
  /** Takes this long; 1. */
  readonly delayMs?: number;
  readonly drops?: boolean | ((request: number) => boolean);
  /** Changes the reply's identifier, sequence and data. */
  readonly mangles?: (echo: Buffer) => void;
  /** Answers from another address. */
  readonly from?: string;
  readonly copies?: number;
  /** The send fails with this text. */
  readonly refuses?: string;
}

const IPV4_HEADER = 20;
/** Offset of the data in an echo message. */
export const DATA_AT = 8;

export class FakeEchoNetwork {
  /** Every request, when it was sent and to whom. */
  readonly requests: { readonly at: number; readonly ip: string }[] = [];
  readonly closed: Family[] = [];
  /** Refuses to open sockets of a family, with this text. */
  readonly refuses = new Map<Family, string>();
  readonly #manners = new Map<string, Manners>();
  readonly #counts = new Map<string, number>();
  readonly #timer: FakeTimer;

  constructor(timer: FakeTimer) {
    this.#timer = timer;
  }

  /** From now on the host does so; without manners it is dead. */
  host(ip: string, manners: Manners | 'dead' = {}): void {
    this.#manners.set(ip, manners === 'dead' ? { drops: true } : manners);
  }

  /** How often a host was asked. */
  asked(ip: string): number {
    return this.#counts.get(ip) ?? 0;
  }

  readonly open: OpenEchoSocket = (family, onPacket) => {
    const refusal = this.refuses.get(family);
    if (refusal !== undefined) throw new Error(refusal);
    return {
      send: (packet, ip, failed) => {
        const count = this.asked(ip);
        this.#counts.set(ip, count + 1);
        this.requests.push({ at: this.#timer.now, ip });
        const { delayMs = 1, drops = false, mangles, from = ip, copies = 1, refuses } = this.#manners.get(ip) ?? {};
        if (refuses !== undefined) failed(new Error(refuses));
        else if (typeof drops === 'boolean' ? drops : drops(count)) return;
        const reply = Buffer.from(packet);
        reply[0] = ECHO[family].reply;
        mangles?.(reply);
        const header =
          family === 4 ? Buffer.concat([Buffer.from([0x45]), Buffer.alloc(IPV4_HEADER - 1)]) : Buffer.alloc(0);
        const received = Buffer.concat([header, reply]);
        for (let copy = 0; copy < copies && refuses === undefined; copy++) {
          this.#timer.set(delayMs, () => onPacket(received, from));
        }
      },
      close: () => this.closed.push(family),
    };
  };
}
