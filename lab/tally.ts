/** What one receiver has seen: counts per stream, source and TTL, and which sequence numbers. Plain JSON goes out. */

import { formatAddress } from '../agent/address.ts';
import { microseconds } from './libc.ts';
import type { Message } from './messages.ts';
import { readPayload } from './payload.ts';
import { decodeSockaddr } from './sockaddr.ts';

/** A stream at one receiver. With several receivers gaps are natural: the others have those datagrams. */
export interface StreamTally {
  readonly stream: number;
  readonly count: number;
  readonly lowest: number;
  readonly highest: number;
  /** Sequence numbers between lowest and highest that did not come here. */
  readonly gaps: number;
  readonly duplicates: number;
  /** Datagrams that came after one with a higher sequence number. */
  readonly outOfOrder: number;
  /** Bit `n` is set if sequence number `n` came, and in `again` if it came more than once; base64. */
  readonly seen: string;
  readonly again: string;
}

export interface Tally {
  readonly name: string;
  readonly count: number;
  readonly bytes: number;
  /** Datagrams that are not numbered ones, or were damaged on the way. */
  readonly payloadErrors: number;
  readonly streams: readonly StreamTally[];
  /** Datagrams by source `ip:port`. */
  readonly sources: Readonly<Record<string, number>>;
  /** Datagrams by TTL or hop limit on arrival. */
  readonly ttls: Readonly<Record<string, number>>;
  /**
   * Where asked for: of each datagram, in any order, when the kernel was handed it for this host, which for a veth is
   * inside the sender's system call (or the program's run), however long it then waits on the way to the socket.
   * Microseconds since 1970, as the base64 of doubles.
   */
  readonly times: string;
}

/** Counts the messages of one receiver. */
export class TallyCounter {
  readonly #name: string;
  readonly #streams = new Map<number, StreamCounter>();
  readonly #sources = new Map<string, { count: number; text: string }>();
  readonly #ttls = new Map<number, number>();
  #bytes = 0;
  #payloadErrors = 0;
  #times: number[] | undefined;
  count = 0;

  /** `times`: the messages' control data are times, not TTLs. */
  constructor(name: string, times = false) {
    this.#name = name;
    if (times) this.#times = [];
  }

  add({ data, name, control }: Message): void {
    this.count++;
    this.#bytes += data.length;
    this.#addSource(name);
    if (this.#times) this.#times.push(microseconds(control));
    else this.#addTtl(control.length >= 4 ? control.readInt32LE(0) : -1);
    const numbered = readPayload(data);
    if (!numbered) {
      this.#payloadErrors++;
      return;
    }
    const stream = this.#streams.get(numbered.stream) ?? new StreamCounter(numbered.stream);
    this.#streams.set(numbered.stream, stream);
    stream.add(numbered.sequence);
  }

  /** `whole`: with which numbers came and when; they grow with the traffic, so a glance goes without. */
  result(whole: boolean): Tally {
    return {
      name: this.#name,
      count: this.count,
      bytes: this.#bytes,
      payloadErrors: this.#payloadErrors,
      streams: [...this.#streams.values()].map((stream) => stream.result(whole)),
      sources: Object.fromEntries([...this.#sources.values()].map(({ text, count }) => [text, count])),
      ttls: Object.fromEntries(this.#ttls),
      times: whole && this.#times ? base64(new Uint8Array(new Float64Array(this.#times).buffer)) : '',
    };
  }

  #addTtl(ttl: number): void {
    this.#ttls.set(ttl, (this.#ttls.get(ttl) ?? 0) + 1);
  }

  #addSource(name: Buffer): void {
    // The raw bytes are the key: writing an address as text for each datagram would cost more than receiving it.
    const key = name.toString('latin1', 2, 24);
    const source = this.#sources.get(key);
    if (source) source.count++;
    else this.#sources.set(key, { count: 1, text: formatAddress(decodeSockaddr(name)) });
  }
}

class StreamCounter {
  readonly #stream: number;
  #count = 0;
  #duplicates = 0;
  #outOfOrder = 0;
  #lowest = Number.POSITIVE_INFINITY;
  #highest = -1;
  #seen = new Uint8Array(1024);
  #again = new Uint8Array(0);

  constructor(stream: number) {
    this.#stream = stream;
  }

  add(sequence: number): void {
    this.#count++;
    if (sequence < this.#highest) this.#outOfOrder++;
    this.#highest = Math.max(this.#highest, sequence);
    this.#lowest = Math.min(this.#lowest, sequence);
    const at = sequence >> 3;
    const bit = 1 << (sequence & 7);
    if (at >= this.#seen.length) this.#seen = grown(this.#seen, at);
    if ((this.#seen[at]! & bit) === 0) {
      this.#seen[at]! |= bit;
      return;
    }
    this.#duplicates++;
    if (at >= this.#again.length) this.#again = grown(this.#again, at);
    this.#again[at]! |= bit;
  }

  result(sequences: boolean): StreamTally {
    return {
      stream: this.#stream,
      count: this.#count,
      lowest: this.#lowest,
      highest: this.#highest,
      gaps: this.#highest - this.#lowest + 1 - (this.#count - this.#duplicates),
      duplicates: this.#duplicates,
      outOfOrder: this.#outOfOrder,
      seen: sequences ? base64(this.#seen) : '',
      again: sequences ? base64(this.#again) : '',
    };
  }
}

function grown(bits: Uint8Array<ArrayBuffer>, at: number): Uint8Array<ArrayBuffer> {
  const larger = new Uint8Array(Math.max(at + 1, bits.length * 2));
  larger.set(bits);
  return larger;
}

function base64(bits: Uint8Array): string {
  return Buffer.from(bits).toString('base64');
}
