/** The downstreams of one table snapshot as a forwarder sends to them: addresses laid out, sockets, counters. */
import { encodeIp, type Family, formatAddress, ipText } from '../../../address.ts';
import { Memory } from '../../../ffi/mmsg.ts';
import { Detours, isOwnSource, type Stop } from '../../detours.ts';
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
  /** The last words of the downstreams' and their nodes' addresses, by which nearly all sources are told not to be one. */
  readonly #lastWords: ReadonlySet<number>;
  readonly #names: readonly string[];
  readonly #sockaddrs: readonly Uint8Array[];
  readonly #sockets: NatSockets;
  readonly #snapshot: TableSnapshot;
  /** Made when the first sender needs one. */
  readonly #detours: Partial<Record<Family, { readonly slots: Uint16Array; readonly detours: Detours }>> = {};

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
    this.#snapshot = snapshot;
    for (const [index, bytes] of this.#sockaddrs.entries()) {
      memory.bytes.set(bytes, index * SOCKADDR.room);
      this.rawAddresses.bytes.set(bytes, index * SOCKADDR.room);
      this.rawAddresses.u16[(index * SOCKADDR.room + SOCKADDR.port) / 2] = 0;
    }
    const hosts = snapshot.downstreams.map(({ family }, index) => ({ family, ip: snapshot.nodes[index] }));
    this.#lastWords = new Set([...snapshot.downstreams, ...hosts].flatMap(lastWordOf));
    sockets.keep(new Set(this.#names.slice(0, MAX_CONNECTED)));
  }

  /** The source, as ReceiveBatch.source has it, if it may be a downstream or its node: `isOwnSource` knows. */
  suspect(source: Uint32Array, at: number): string | undefined {
    const family: Family = (source[at]! & 0xf) === 4 ? 4 : 6;
    const words = family === 4 ? 1 : 4;
    if (!this.#lastWords.has(source[at + words]!)) return undefined;
    return ipText(new Uint8Array(source.slice(at + 1, at + 1 + words).buffer));
  }

  /** True if a sender is this downstream or its node. */
  isOwnSource(downstream: number, sender: string): boolean {
    return isOwnSource(this.#stop(downstream), sender);
  }

  /** The downstream for a datagram of this sender, another one at each turn; undefined where none of the slots will do. */
  another(family: Family, turn: number, sender: string): number | undefined {
    this.#detours[family] ??= this.#map(family);
    const { slots, detours } = this.#detours[family];
    const slot = detours.at(turn, sender);
    return slot === undefined ? undefined : slots[slot];
  }

  #map(family: Family) {
    const slots = new Uint16Array(this.#snapshot.slots[family]);
    return { slots, detours: new Detours([...slots].map((downstream) => this.#stop(downstream))) };
  }

  #stop(downstream: number): Stop {
    return { address: this.#snapshot.downstreams[downstream]!, node: this.#snapshot.nodes[downstream] };
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

function lastWordOf({ family, ip }: { readonly family: Family; readonly ip: string | undefined }): readonly number[] {
  return ip === undefined ? [] : [...new Uint32Array(encodeIp({ family, ip }).slice().buffer).slice(-1)];
}
