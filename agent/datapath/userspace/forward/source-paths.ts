/**
 * By which socket a source's datagrams leave. Nat: one of this host's own. Preserve: a socket bound to the client's
 * address where that lets datagrams be gathered, the raw socket for the others, each for the other where only one can be
 * had; this host's own where neither can be (a loopback or link-local source means nothing on another host). Port 0 is a
 * sender's that wants no answer (RFC 768): no socket can be bound to it, the raw one keeps it.
 */

import type { Family } from '../../../address.ts';
import { ClientSockets } from '../sockets/client.ts';
import type { Descriptors } from '../sockets/descriptors.ts';
import type { Senders } from '../sockets/open.ts';
import { NO_RAW_SOCKET, RawSockets } from '../sockets/raw.ts';
import { type BatchSources, SOURCE_WORDS } from './batch-sources.ts';
import type { GsoPlan } from './gso-plan.ts';

/** MARTIAN: none, since what it has is no address of a sender. */
export const SOURCE_PATH = { NAT: 0, RAW: 1, CLIENT: 2, MARTIAN: 3 } as const;

/** What this process may do to keep sources. */
export interface Preserve {
  readonly transparent: boolean;
  readonly raw: boolean;
  /** Most sockets of clients at a time. */
  readonly maxSources: number;
}

export class SourcePaths {
  /** By source of the batch, after `choose`: one of SOURCE_PATH, and the socket of those that have their own. */
  readonly path: Uint8Array;
  readonly fd: Int32Array;
  /** By source: it may not be kept, whatever this process may do. */
  readonly #fromHere: Uint8Array;
  /** By source: some of its datagrams can be gathered. */
  readonly #gathers: Uint8Array;
  readonly #clients: ClientSockets | undefined;
  readonly #raw: RawSockets | undefined;
  #host: Uint32Array = new Uint32Array(0);

  /** For batches of so many sources; without `preserve`, nat. */
  constructor(sources: number, preserve: Preserve | undefined, descriptors: Descriptors, senders: Senders) {
    this.path = new Uint8Array(sources);
    this.fd = new Int32Array(sources);
    this.#gathers = new Uint8Array(sources);
    this.#fromHere = new Uint8Array(sources);
    this.#clients = preserve?.transparent
      ? new ClientSockets(preserve.maxSources, (source, at) => this.#isHost(source, at), descriptors, senders.client)
      : undefined;
    this.#raw = preserve?.raw ? new RawSockets(descriptors, senders.raw) : undefined;
  }

  get preserves(): boolean {
    return this.#clients !== undefined || this.#raw !== undefined;
  }

  /** The raw socket of a family, of which a source of the batch has chosen it. */
  raw(family: Family): number {
    return this.#raw!.of(family, 0);
  }

  /** Tells this host's own addresses, 16 bytes each. */
  setHost(addresses: Uint8Array): void {
    const words = new Uint32Array(addresses.slice().buffer);
    if (words.length === this.#host.length && words.every((word, index) => word === this.#host[index])) return;
    this.#host = words;
    // A socket that is bound to an address which has become this host's takes datagrams away from it.
    this.#clients?.clear();
  }

  /** Has this source's datagrams of the batch bear this host's address. */
  sendFromHere(source: number): void {
    this.#fromHere[source] = 1;
  }

  /** Chooses for every source of a planned batch. */
  choose(plan: GsoPlan, sources: BatchSources, now: number): void {
    this.#gathers.fill(0, 0, sources.count);
    for (let run = 0; run < plan.runs; run++) if (plan.count[run]! > 1) this.#gathers[plan.source[run]!] = 1;
    for (let source = 0; source < sources.count; source++) {
      const kept = this.#fromHere[source] === 0;
      this.path[source] = kept ? this.#choose(source, sources.words, source * SOURCE_WORDS, now) : SOURCE_PATH.NAT;
    }
    this.#fromHere.fill(0, 0, sources.count);
  }

  #choose(source: number, words: Uint32Array, at: number, now: number): number {
    if (isUnspecified(words, at)) return SOURCE_PATH.MARTIAN;
    if (staysHere(words, at)) return SOURCE_PATH.NAT;
    // A datagram goes to a downstream of its own family.
    const raw = this.#raw ? this.#raw.of((words[at]! & 0xf) as Family, now) : NO_RAW_SOCKET;
    const hasPort = words[at]! >>> 16 !== 0;
    if (this.#clients && hasPort && (this.#gathers[source] === 1 || raw === NO_RAW_SOCKET)) {
      const fd = this.#clients.get(words, at, now);
      this.fd[source] = fd;
      if (fd >= 0) return SOURCE_PATH.CLIENT;
    }
    return raw === NO_RAW_SOCKET ? SOURCE_PATH.NAT : SOURCE_PATH.RAW;
  }

  #isHost(source: Uint32Array, at: number): boolean {
    const host = this.#host;
    for (let entry = 0; entry < host.length; entry += 4) {
      let same = true;
      for (let word = 0; word < 4; word++) same &&= host[entry + word] === source[at + 1 + word];
      if (same) return true;
    }
    return false;
  }
}

/** 0.0.0.0/8 (RFC 1122, 3.2.1.3) and :: (RFC 4291, 2.5.2): sent as it is, the kernel would choose another in its place. */
function isUnspecified(words: Uint32Array, at: number): boolean {
  if ((words[at]! & 0xf) === 4) return (words[at + 1]! & 0xff) === 0;
  return words[at + 1] === 0 && words[at + 2] === 0 && words[at + 3] === 0 && words[at + 4] === 0;
}

/** 127.0.0.0/8 (RFC 1122), ::1 and fe80::/10 (RFC 4291): no other host could make anything of them. */
function staysHere(words: Uint32Array, at: number): boolean {
  const first = words[at + 1]!;
  if ((words[at]! & 0xf) === 4) return (first & 0xff) === 127;
  if ((first & 0xc0ff) === 0x80fe) return true;
  return first === 0 && words[at + 2] === 0 && words[at + 3] === 0 && words[at + 4] === 0x0100_0000;
}
