/**
 * The safety net of the kernel path: what the program could not send itself, sent from here, source kept, cut up where
 * the way is too narrow. What cannot leave from here either is dropped by name; nothing goes back to routing.
 */
import { constants } from 'node:os';
import {
  type Family,
  formatAddress,
  type IpAddress,
  ipText,
  isLoopback,
  type SocketAddress,
} from '../../../address.ts';
import { LOOPBACK_IFINDEX, libc } from '../../../ffi/libc.ts';
import { MSG_DONTWAIT } from '../../../ffi/mmsg.ts';
import type { Route } from '../../../netlink/route.ts';
import { encodeSockaddr } from '../../userspace/messages/layout.ts';
import { reasonNameOf } from '../../userspace/reasons.ts';
import { openNatSocket } from '../../userspace/sockets/open.ts';
import { EarlyFragments } from './early-fragments.ts';
import type { Exits } from './exits.ts';
import {
  hasPorts,
  lengthOf,
  packetsOf,
  readdressed,
  readPacket,
  segmentsOf,
  tooBig,
  UDP_HEADER,
  type UdpPacket,
} from './packet.ts';
import type { Handed } from './record.ts';

/** Whose datagrams come here, as the kernel path has it. */
export interface HandedListener {
  /** Whether senders would rather hear of datagrams that are too large. */
  readonly reportsMtu: boolean;
  has(downstream: SocketAddress): boolean;
  /** True if the sender is this downstream or its node, whose stack would drop what comes with its own source. */
  isOwnSource(downstream: SocketAddress, sender: string): boolean;
  /** Where a datagram goes that was meant for this downstream: there, or elsewhere if that is gone, or its own source. */
  downstreamFor(meant: SocketAddress, sender: string): SocketAddress | undefined;
  /** A datagram, or with 0 of them a later part of one. */
  forwarded(downstream: string, datagrams: 0 | 1, bytes: number): void;
  dropped(reason: string): void;
  /** The rest of a datagram could not be sent whose first part was: it counts once more, as a lost one. */
  lost(reason: string): void;
}

export interface HandedDependencies {
  readonly listener: (row: number) => HandedListener | undefined;
  /** The way to an address, and the MTU of its interface. */
  readonly wayTo: (address: IpAddress) => Way | undefined;
  readonly exits: Exits;
  /** A program on `lo` redirects what is sent there. */
  readonly redirects: () => boolean;
  readonly now: () => number;
  /** Whether one more error message may leave (RFC 1812, 4.3.2.8). */
  readonly mayReport: () => boolean;
}

export type Way = Pick<Route, 'ifindex' | 'local' | 'encapsulates'> & { readonly mtu: number };

type Chosen = NonNullable<Handed['chosen']>;

export class HandedPackets {
  readonly #deps: HandedDependencies;
  readonly #early: EarlyFragments<Chosen>;
  readonly #nat: Partial<Record<Family, number>> = {};
  #id = Math.floor(Math.random() * 0x1_0000_0000);

  constructor(dependencies: HandedDependencies) {
    this.#deps = dependencies;
    this.#early = new EarlyFragments(dependencies.now);
  }

  take({ packet: bytes, chosen, ifindex, segment }: Handed): void {
    const packet = readPacket(bytes);
    if (typeof packet === 'string') {
      if (chosen) this.#deps.listener(chosen.row)?.dropped(packet);
      return;
    }
    if (packet.fragment) this.#takeFragment(packet, bytes, keyOf(packet, packet.fragment.id, ifindex), chosen, ifindex);
    else if (chosen) {
      const way = this.#resolved(packet, chosen);
      for (const datagram of segmentsOf(packet, segment)) this.#deliver(datagram, bytes, way, ifindex);
    }
  }

  close(): void {
    for (const fd of Object.values(this.#nat)) libc.close(fd);
    this.#deps.exits.close();
  }

  /** Once for each datagram: another downstream where the chosen one is gone, or the sender itself. */
  #resolved({ source }: UdpPacket, { row, downstream }: Chosen): Chosen {
    const sender = ipText(source);
    return { row, downstream: this.#deps.listener(row)?.downstreamFor(downstream, sender) ?? downstream };
  }

  #takeFragment(packet: UdpPacket, bytes: Uint8Array, key: string, chosen: Chosen | undefined, ifindex: number): void {
    if (hasPorts(packet)) {
      if (!chosen) return;
      const way = this.#resolved(packet, chosen);
      const waiting = this.#early.first(key, way);
      if (!this.#deliver(packet, bytes, way, ifindex)) this.#early.lose(key, way);
      for (const one of waiting) this.#follow(readPacket(one) as UdpPacket, one, key, way, ifindex);
      return;
    }
    // Where the program sent the first one it alone knows the way.
    const way = this.#early.known(key)?.way ?? chosen;
    if (way) this.#follow(packet, bytes, key, way, ifindex);
    else this.#early.keep(key, bytes);
  }

  /** A later part: bytes of a datagram that is counted already, unless it is lost with this one. */
  #follow(packet: UdpPacket, asSent: Uint8Array, key: string, { row, downstream }: Chosen, ifindex: number): void {
    const listener = this.#deps.listener(row);
    if (!listener || this.#early.known(key)?.lost) return;
    const reason = this.#send(listener, packet, asSent, downstream, ifindex);
    if (reason === undefined) listener.forwarded(formatAddress(downstream), 0, packet.payload.length);
    else if (this.#early.lose(key, { row, downstream })) listener.lost(reason);
  }

  /** A datagram, or its first part; false if it is lost. */
  #deliver(packet: UdpPacket, asSent: Uint8Array, { row, downstream }: Chosen, ifindex: number): boolean {
    const listener = this.#deps.listener(row);
    const reason = listener && this.#send(listener, packet, asSent, downstream, ifindex);
    if (reason === undefined) listener?.forwarded(formatAddress(downstream), 1, packet.payload.length - UDP_HEADER);
    else listener?.dropped(reason);
    return listener !== undefined && reason === undefined;
  }

  /** Why it could not be sent. */
  #send(
    listener: HandedListener,
    packet: UdpPacket,
    asSent: Uint8Array,
    downstream: SocketAddress,
    ifindex: number,
  ): string | undefined {
    if (!listener.has(downstream)) return 'downstream_gone';
    const kind = sourceKind(packet, ifindex, (sender) => listener.isOwnSource(downstream, sender));
    if (kind === 'martian') return 'martian_source';
    if (kind === 'ours alone') return this.#sendFromHere(packet, downstream);
    const way = this.#deps.wayTo(downstream);
    if (!way) return 'no_route';
    const next = readdressed(packet, downstream);
    if (listener.reportsMtu && packet.dontFragment && lengthOf(next) > way.mtu) {
      this.#report(packet, asSent, way.mtu);
      return 'mtu_exceeded';
    }
    for (const one of packetsOf(next, way.mtu, () => this.#nextId(packet.family))) {
      const errno = this.#leave(packet.family, one, way);
      if (errno !== 0) return reasonNameOf(errno);
    }
    return undefined;
  }

  #leave(family: Family, packet: Uint8Array, { ifindex, local, encapsulates }: Way): number {
    const { exits, redirects } = this.#deps;
    try {
      if (local || encapsulates || !redirects()) return exits.output(family, packet);
      return exits.redirect(family, packet, ifindex);
    } catch (error) {
      return (error as { errno?: number }).errno ?? constants.errno.EIO;
    }
  }

  /** The datagram bears this host's address in place of its source. */
  #sendFromHere({ family, fragment, payload }: UdpPacket, downstream: SocketAddress): string | undefined {
    // A socket sends whole datagrams only.
    if (fragment) return 'martian_source';
    try {
      this.#nat[family] ??= openNatSocket(family);
    } catch (error) {
      return reasonNameOf((error as { errno?: number }).errno ?? 0);
    }
    const data = payload.subarray(UDP_HEADER);
    const to = encodeSockaddr(downstream);
    const sent = libc.sendto(this.#nat[family]!, data, data.length, MSG_DONTWAIT, to, to.length);
    return sent < 0 ? reasonNameOf(-sent) : undefined;
  }

  #report(packet: UdpPacket, asSent: Uint8Array, mtu: number): void {
    const { wayTo, mayReport } = this.#deps;
    const way = wayTo({ family: packet.family, ip: ipText(packet.source) });
    if (way && mayReport()) this.#leave(packet.family, tooBig(packet, asSent, mtu), way);
  }

  /** Names a datagram that is cut up here, for its receiver to tell it from the others of its sender. */
  #nextId(family: Family): number {
    this.#id = (this.#id + 1) >>> 0;
    return family === 4 ? this.#id & 0xffff : this.#id;
  }
}

function keyOf({ family, source, destination }: UdpPacket, id: number, ifindex: number): string {
  return `${family} ${Buffer.concat([source, destination]).toString('latin1')} ${id} ${ifindex}`;
}

/**
 * Whether a source may stand in a packet that is forwarded (RFC 1812, 5.3.7; RFC 4291, 2.5). To another host a loopback or
 * link-local one means nothing, and the downstream's or its node's own would be a forgery there.
 */
function sourceKind({ family, source }: UdpPacket, ifindex: number, isOwn: (sender: string) => boolean) {
  const ip = ipText(source);
  const [first = 0, second = 0] = source;
  if (isLoopback(ip)) return ifindex === LOOPBACK_IFINDEX ? 'ours alone' : 'martian';
  if (isOwn(ip)) return 'ours alone';
  if (family === 4) return first === 0 || first >= 224 ? 'martian' : 'good';
  if (ip === '::' || first === 0xff) return 'martian';
  return first === 0xfe && (second & 0xc0) === 0x80 ? 'ours alone' : 'good';
}
