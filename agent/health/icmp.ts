/**
 * Probes by echo request, one socket for each family. An answer counts if address, identifier, sequence number and a
 * random token are those of a probe that is still waited for; all else is somebody else's, late or forged.
 */
import { randomInt } from 'node:crypto';
import { type Family, parseIp, type SocketAddress } from '../address.ts';
import { decodeReply, encodeRequest } from './echo.ts';
import type { EchoSocket, OpenEchoSocket } from './echo-socket.ts';
import type { OnHint, OpenProber, ProbeCallbacks, Prober } from './prober.ts';
import { newToken } from './token.ts';

/** strerror(3) of ENETUNREACH and EHOSTUNREACH; raw-socket gives no numbers. */
const UNREACHABLE = ['Network is unreachable', 'No route to host'];

interface Waiting {
  readonly address: SocketAddress;
  readonly token: Buffer;
  readonly callbacks: ProbeCallbacks;
}

/** Opens both sockets; a prober that lacks one family says so at each of its probes. Throws what IPv4 threw if it lacks both. */
export function openIcmp(open: OpenEchoSocket): OpenProber {
  let receive: (family: Family, packet: Buffer, source: string) => void = () => {};
  const tryOpen = (family: Family) => {
    try {
      return open(family, (packet, source) => receive(family, packet, source));
    } catch (error) {
      return error as Error;
    }
  };
  const sockets = { 4: tryOpen(4), 6: tryOpen(6) };
  if (sockets[4] instanceof Error && sockets[6] instanceof Error) throw sockets[4];
  return (onHint) => {
    const prober = new IcmpProber(sockets, onHint);
    receive = (family, packet, source) => prober.receive(family, packet, source);
    return prober;
  };
}

class IcmpProber implements Prober {
  readonly #sockets: Readonly<Record<Family, EchoSocket | Error>>;
  readonly #onHint: OnHint;
  readonly #identifier = randomInt(0x10000);
  readonly #waiting = new Map<string, Waiting>();
  #sequence = randomInt(0x10000);

  constructor(sockets: Readonly<Record<Family, EchoSocket | Error>>, onHint: OnHint) {
    this.#sockets = sockets;
    this.#onHint = onHint;
  }

  /** A host answers, not a port. */
  keyOf({ ip }: SocketAddress): string {
    return ip;
  }

  send(address: SocketAddress, callbacks: ProbeCallbacks): () => void {
    const { family, ip } = address;
    const socket = this.#sockets[family];
    if (socket instanceof Error) {
      callbacks.unsent(socket.message);
      return () => {};
    }
    this.#sequence = (this.#sequence + 1) & 0xffff;
    const token = newToken();
    const key = keyOf(ip, this.#sequence);
    this.#waiting.set(key, { address, token, callbacks });
    const request = { identifier: this.#identifier, sequence: this.#sequence, data: token };
    socket.send(encodeRequest(family, request), ip, ({ message }) => {
      if (UNREACHABLE.includes(message)) this.#onHint(address, 'host_unreachable');
      else if (this.#waiting.has(key)) callbacks.unsent(message);
    });
    return () => this.#waiting.delete(key);
  }

  receive(family: Family, packet: Buffer, source: string): void {
    const reply = decodeReply(family, packet);
    if (reply?.identifier !== this.#identifier) return;
    const key = keyOf(parseIp(source)?.ip ?? source, reply.sequence);
    const waiting = this.#waiting.get(key);
    if (!waiting) return;
    if (waiting.token.equals(reply.data)) {
      this.#waiting.delete(key);
      waiting.callbacks.answer();
    } else this.#onHint(waiting.address, 'wrong_answer');
  }

  release(): void {}

  close(): void {
    for (const socket of Object.values(this.#sockets)) if (!(socket instanceof Error)) socket.close();
  }
}

function keyOf(ip: string, sequence: number): string {
  return `${ip} ${sequence}`;
}
