/** The downstreams of one table snapshot as a forwarder sends to them: addresses laid out, sockets, counters. */
import { type Family, formatAddress } from '../../../address.ts';
import { Memory } from '../../../ffi/mmsg.ts';
import { encodeSockaddr, SOCKADDR } from '../messages/layout.ts';
import type { TableSnapshot } from '../snapshot.ts';
import { MAX_CONNECTED, type NatSocket, type NatSockets } from '../sockets/nat.ts';

const ANY_SIZE = 65507;

export class Targets {
  /** The downstreams' addresses as sockaddrs, SOCKADDR.room apart. */
  readonly addresses: Memory;
  /** The same without their ports, which to a raw socket of IPv6 would be a protocol. */
  readonly rawAddresses: Memory;
  /** By downstream: 4 or 6, and the length of its sockaddr. */
  readonly family: Uint8Array;
  readonly length: Uint8Array;
  /** By downstream: largest datagram that may be gathered. Learned: what the path MTU does not take is sent plainly. */
  readonly gather: Int32Array;
  /** By downstream: datagrams sent, this forwarder's part of the snapshot's counters. */
  readonly counts: Float64Array;
  /** The last words of the downstreams' addresses, by which nearly all sources are told not to be one. */
  readonly #lastWords: ReadonlySet<number>;
  readonly #names: readonly string[];
  readonly #sockaddrs: readonly Uint8Array[];
  readonly #sockets: NatSockets;

  constructor(snapshot: TableSnapshot, forwarder: number, sockets: NatSockets, gathers: boolean) {
    const { length } = snapshot.downstreams;
    const memory = new Memory(Math.max(1, length) * SOCKADDR.room);
    this.addresses = memory;
    this.rawAddresses = new Memory(memory.bytes.length);
    this.family = Uint8Array.from(snapshot.downstreams, ({ family }) => family);
    this.length = this.family.map((family) => SOCKADDR[family as Family].size);
    this.gather = new Int32Array(length).fill(gathers ? ANY_SIZE : 0);
    this.counts = new Float64Array(snapshot.counts, forwarder * length * 8, length);
    this.#names = snapshot.downstreams.map(formatAddress);
    this.#sockaddrs = snapshot.downstreams.map(encodeSockaddr);
    this.#sockets = sockets;
    for (const [index, bytes] of this.#sockaddrs.entries()) {
      memory.bytes.set(bytes, index * SOCKADDR.room);
      this.rawAddresses.bytes.set(bytes, index * SOCKADDR.room);
      this.rawAddresses.u16[(index * SOCKADDR.room + SOCKADDR.port) / 2] = 0;
    }
    this.#lastWords = new Set(snapshot.downstreams.map((_, index) => this.#lastWord(index)));
    sockets.keep(new Set(this.#names.slice(0, MAX_CONNECTED)));
  }

  /** True if a source, as ReceiveBatch.source has it, may be a downstream's: `isAt` knows. */
  have(source: Uint32Array, at: number): boolean {
    return this.#lastWords.has(source[at + ((source[at]! & 0xf) === 4 ? 1 : 4)]!);
  }

  /** True if a source's address is this downstream's. */
  isAt(downstream: number, source: Uint32Array, at: number): boolean {
    const family = this.family[downstream] as Family;
    if ((source[at]! & 0xf) !== family) return false;
    const first = (downstream * SOCKADDR.room + SOCKADDR[family].addr) / 4;
    const words = family === 4 ? 1 : 4;
    for (let word = 0; word < words; word++) {
      if (this.addresses.u32[first + word] !== source[at + 1 + word]) return false;
    }
    return true;
  }

  #lastWord(downstream: number): number {
    const { addr, size } = SOCKADDR[this.family[downstream] as Family];
    const end = this.family[downstream] === 4 ? addr + 4 : size - 4;
    return this.addresses.u32[(downstream * SOCKADDR.room + end) / 4 - 1]!;
  }

  /** The socket that reaches it with this host's address; connected ones need no address with the message. Throws SystemError. */
  natSocket(downstream: number): NatSocket {
    return this.#sockets.of(
      this.#names[downstream]!,
      this.family[downstream] as Family,
      this.#sockaddrs[downstream]!,
      downstream < MAX_CONNECTED,
    );
  }
}
