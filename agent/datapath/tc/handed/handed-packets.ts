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
import { NeighbourQueues, type NeighbourQueuesDependencies, type Waiting } from './neighbour-queues.ts';
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
  /** The rest of a datagram could not be sent whose first part was, and counts as forwarded. */
  torn(reason: string): void;
}

export interface HandedDependencies {
  readonly listener: (row: number) => HandedListener | undefined;
  /** The way to an address, and the MTU of its interface. */
  readonly wayTo: (address: IpAddress) => Way | undefined;
  readonly exits: Exits;
  /** A program on `lo` redirects what is sent there. */
  readonly redirects: () => boolean;
  readonly now: () => number;
  readonly neighbours: NeighbourQueuesDependencies;
  /** Whether one more error message may leave (RFC 1812, 4.3.2.8). */
  readonly mayReport: () => boolean;
}

export interface Way extends Pick<Route, 'ifindex' | 'local' | 'encapsulates'> {
  readonly mtu: number;
  /** Who has to be there on the link; absent where nobody is asked. */
  readonly neighbour?: IpAddress;
}

type Chosen = NonNullable<Handed['chosen']>;

/** A datagram or a part of one, on its way. */
interface Outgoing {
  readonly packet: UdpPacket;
  readonly asSent: Uint8Array;
  readonly chosen: Chosen;
  /** The interface that it came by. */
  readonly ifindex: number;
  /** Which datagram it is a part of. */
  readonly key?: string;
}

/** Why a datagram is lost whose neighbour does not answer, as the program names it. */
const UNRESOLVED = 'neigh_unresolved';
/** An ICMP error quotes no more. */
const MOST_QUOTED = 1280;

export class HandedPackets {
  readonly #deps: HandedDependencies;
  readonly #early: EarlyFragments<Chosen>;
  readonly #queues: NeighbourQueues;
  readonly #nat: Partial<Record<Family, number>> = {};
  #id = Math.floor(Math.random() * 0x1_0000_0000);

  constructor(dependencies: HandedDependencies) {
    this.#deps = dependencies;
    this.#early = new EarlyFragments(dependencies.now);
    this.#queues = new NeighbourQueues(dependencies.neighbours);
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
      for (const datagram of segmentsOf(packet, segment)) {
        this.#send({ packet: datagram, asSent: bytes, chosen: way, ifindex });
      }
    }
  }

  close(): void {
    this.#queues.close();
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
      this.#send({ packet, asSent: bytes, chosen: way, ifindex, key });
      for (const one of waiting) {
        this.#send({ packet: readPacket(one) as UdpPacket, asSent: one, chosen: way, ifindex, key });
      }
      return;
    }
    // Where the program sent the first one it alone knows the way.
    const way = this.#early.known(key)?.way ?? chosen;
    if (way) this.#send({ packet, asSent: bytes, chosen: way, ifindex, key });
    else this.#early.keep(key, bytes);
  }

  /** Sends it, or has it wait for its neighbour; where it `hasWaited` much may have changed. Else it is lost by name. */
  #send(one: Outgoing, hasWaited = false): void {
    const listener = this.#deps.listener(one.chosen.row);
    if (!listener || this.#isLost(one)) return;
    const way = this.#wayOf(one, listener);
    if (typeof way === 'string') this.#lose(one, listener, way);
    else if (hasWaited || this.#mayLeave(one, listener, way)) this.#leave(one, listener, way);
  }

  /** False if it waits, or is lost. */
  #mayLeave(one: Outgoing, listener: HandedListener, { ifindex, neighbour }: Way): boolean {
    if (!neighbour) return true;
    const answer = this.#queues.offer({ ifindex, address: neighbour }, lengthOf(one.packet), () => this.#kept(one));
    if (answer === 'full') this.#lose(one, listener, UNRESOLVED);
    return answer === 'go';
  }

  /** It outlives its record. */
  #kept(one: Outgoing): Waiting {
    const { source, destination, payload } = one.packet;
    const packet = {
      ...one.packet,
      source: source.slice(),
      destination: destination.slice(),
      payload: payload.slice(),
    };
    const kept = { ...one, packet, asSent: one.asSent.slice(0, MOST_QUOTED) };
    return {
      leave: () => this.#send(kept, true),
      fail: () => {
        const listener = this.#deps.listener(kept.chosen.row);
        if (listener && !this.#isLost(kept)) this.#lose(kept, listener, UNRESOLVED);
      },
    };
  }

  /** A later part of a datagram that is lost already. */
  #isLost({ packet, key }: Outgoing): boolean {
    return key !== undefined && !hasPorts(packet) && this.#early.known(key)?.lost === true;
  }

  #lose({ packet, chosen, key }: Outgoing, listener: HandedListener, reason: string): void {
    const isNews = key === undefined || this.#early.lose(key, chosen);
    if (hasPorts(packet)) listener.dropped(reason);
    else if (isNews) listener.torn(reason);
  }

  /** The way that it goes, or why there is none. */
  #wayOf({ packet, asSent, chosen: { downstream }, ifindex }: Outgoing, listener: HandedListener): Way | string {
    if (!listener.has(downstream)) return 'downstream_gone';
    if (this.#sourceKind(packet, downstream, ifindex, listener) === 'martian') return 'martian_source';
    const way = this.#deps.wayTo(downstream);
    if (!way) return 'no_route';
    if (!listener.reportsMtu || !packet.dontFragment || lengthOf(packet) <= way.mtu) return way;
    this.#report(packet, asSent, way.mtu);
    return 'mtu_exceeded';
  }

  #sourceKind(packet: UdpPacket, downstream: SocketAddress, ifindex: number, listener: HandedListener) {
    return sourceKind(packet, ifindex, (sender) => listener.isOwnSource(downstream, sender));
  }

  /** A later part is bytes of a datagram that is counted already, unless it is lost with this one. */
  #leave(one: Outgoing, listener: HandedListener, way: Way): void {
    const { packet, chosen, ifindex } = one;
    const isOurs = this.#sourceKind(packet, chosen.downstream, ifindex, listener) === 'ours alone';
    const reason = isOurs
      ? this.#sendFromHere(packet, chosen.downstream)
      : this.#sendOn(packet, chosen.downstream, way);
    const { length } = packet.payload;
    if (reason !== undefined) this.#lose(one, listener, reason);
    else if (hasPorts(packet)) listener.forwarded(formatAddress(chosen.downstream), 1, length - UDP_HEADER);
    else listener.forwarded(formatAddress(chosen.downstream), 0, length);
  }

  #sendOn(packet: UdpPacket, downstream: SocketAddress, way: Way): string | undefined {
    for (const one of packetsOf(readdressed(packet, downstream), way.mtu, () => this.#nextId(packet.family))) {
      const errno = this.#exit(packet.family, one, way);
      if (errno !== 0) return reasonNameOf(errno);
    }
    return undefined;
  }

  #exit(family: Family, packet: Uint8Array, { ifindex, local, encapsulates }: Way): number {
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
    if (way && mayReport()) this.#exit(packet.family, tooBig(packet, asSent, mtu), way);
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
