/**
 * Sockets bound to clients' own addresses, the least recently used given up first: what lets the datagrams of a client
 * that talks much be gathered. All state is in arrays, since it is asked once for each client of each batch.
 */
import { FAMILIES, type Family } from '../../../address.ts';
import { SOCKADDR } from '../messages/layout.ts';
import type { Descriptors } from './descriptors.ts';
import type { openTransparentSocket } from './open.ts';

/** A socket that was in use so recently keeps its place: to take turns on too few would cost more than it saves. */
const KEEP_MS = 1000;
const KEY = 5;
const NONE = -1;

/** Which source addresses may not be bound to: those of this host, whose own sockets would lose their datagrams. */
export type IsHost = (source: Uint32Array, at: number) => boolean;

export class ClientSockets {
  readonly #isHost: IsHost;
  readonly #limit: number;
  readonly #descriptors: Descriptors;
  readonly #open: typeof openTransparentSocket;
  #size = 0;
  /** By entry: the source as ReceiveBatch.source has it, its socket or NONE, and when it was asked for last. */
  readonly #keys: Uint32Array;
  readonly #fds: Int32Array;
  readonly #used: Float64Array;
  /** Hash chains: entry by bucket, and the one behind it. */
  readonly #buckets: Int32Array;
  readonly #next: Int32Array;
  #fullUntil = 0;

  /** At most `limit` sockets. */
  constructor(limit: number, isHost: IsHost, descriptors: Descriptors, open: typeof openTransparentSocket) {
    this.#limit = limit;
    this.#isHost = isHost;
    this.#descriptors = descriptors;
    this.#open = open;
    this.#keys = new Uint32Array(limit * KEY);
    this.#fds = new Int32Array(limit);
    this.#used = new Float64Array(limit);
    this.#buckets = new Int32Array(2 ** Math.ceil(Math.log2(limit * 2))).fill(NONE);
    this.#next = new Int32Array(limit);
  }

  /** The socket of a source, opened where there is room; NONE (-1) where it must go another way. `now` in ms. */
  get(source: Uint32Array, at: number, now: number): number {
    const bucket = this.#bucket(source, at);
    for (let entry = this.#buckets[bucket]!; entry !== NONE; entry = this.#next[entry]!) {
      if (!this.#is(entry, source, at)) continue;
      this.#used[entry] = now;
      return this.#fds[entry]!;
    }
    const entry = this.#place(now);
    if (entry === NONE) return NONE;
    this.#keys.set(source.subarray(at, at + KEY), entry * KEY);
    // One that cannot be had is remembered as well, or each batch would try again.
    this.#fds[entry] = this.#isHost(source, at) ? NONE : this.#openFor(source, at);
    this.#used[entry] = now;
    this.#next[entry] = this.#buckets[bucket]!;
    this.#buckets[bucket] = entry;
    return this.#fds[entry]!;
  }

  /** Closes all. */
  clear(): void {
    for (let entry = 0; entry < this.#size; entry++) this.#close(entry);
    this.#buckets.fill(NONE);
    this.#size = 0;
    this.#fullUntil = 0;
  }

  /** A free entry, or that of the source that has been silent longest; NONE while none has been silent for long. */
  #place(now: number): number {
    if (this.#size < this.#limit) return this.#size++;
    if (now < this.#fullUntil) return NONE;
    let oldest = 0;
    for (let entry = 1; entry < this.#size; entry++) if (this.#used[entry]! < this.#used[oldest]!) oldest = entry;
    if (now < this.#used[oldest]! + KEEP_MS) {
      this.#fullUntil = this.#used[oldest]! + KEEP_MS;
      return NONE;
    }
    this.#unlink(oldest);
    this.#close(oldest);
    return oldest;
  }

  #close(entry: number): void {
    const fd = this.#fds[entry]!;
    if (fd !== NONE) this.#descriptors.close(fd);
  }

  #openFor(source: Uint32Array, at: number): number {
    const family = (source[at]! & 0xf) as Family;
    try {
      return this.#descriptors.ownSpare(this.#open(family, sockaddrOf(family, source, at)));
    } catch {
      return NONE;
    }
  }

  #unlink(entry: number): void {
    const bucket = this.#bucket(this.#keys, entry * KEY);
    if (this.#buckets[bucket] === entry) {
      this.#buckets[bucket] = this.#next[entry]!;
      return;
    }
    let before = this.#buckets[bucket]!;
    while (this.#next[before] !== entry) before = this.#next[before]!;
    this.#next[before] = this.#next[entry]!;
  }

  #is(entry: number, source: Uint32Array, at: number): boolean {
    const key = entry * KEY;
    for (let word = 0; word < KEY; word++) if (this.#keys[key + word] !== source[at + word]) return false;
    return true;
  }

  #bucket(source: Uint32Array, at: number): number {
    return hashSource(source, at) & (this.#buckets.length - 1);
  }
}

/** A hash of a source as ReceiveBatch.source has it. */
export function hashSource(source: Uint32Array, at: number): number {
  let hash = 0;
  for (let word = 0; word < KEY; word++) hash = Math.imul(hash ^ source[at + word]!, 0x9e3779b1) ^ (hash >>> 15);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function sockaddrOf(family: Family, source: Uint32Array, at: number): Uint32Array {
  const { size, addr } = SOCKADDR[family];
  const words = new Uint32Array(size / 4);
  words[0] = (source[at]! & 0xffff_0000) | FAMILIES[family].af;
  for (let word = 0; word < FAMILIES[family].bytes / 4; word++) words[addr / 4 + word] = source[at + 1 + word]!;
  return words;
}
