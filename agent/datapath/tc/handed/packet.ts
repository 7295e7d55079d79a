/**
 * IP packets of UDP as bytes, read and written as a router does that also fragments (RFC 791, RFC 8200): pure. Options
 * and extension headers are not carried on; a fragment is read and written by itself, nothing is put together.
 */
import { encodeIp, type Family, type SocketAddress } from '../../../address.ts';
import { checksum, checksumReplaced, folded, sumWords } from '../../../checksum.ts';

const IPPROTO_UDP = 17;
/** Bytes of a UDP header (RFC 768). */
export const UDP_HEADER = 8;
/** Of the header without options, by family; IPv6 has another 8 bytes in a fragment. */
const HEADER = { 4: 20, 6: 40 } as const;
const FRAGMENT_HEADER = 8;
const NEXT = { HOP_BY_HOP: 0, ROUTING: 43, FRAGMENT: 44, DESTINATION: 60 } as const;
const DONT_FRAGMENT = 0x4000;
const MORE_FRAGMENTS = 0x2000;

/** Which part of a datagram a packet has. */
export interface Fragment {
  readonly id: number;
  /** In bytes. */
  readonly offset: number;
  readonly more: boolean;
}

export interface UdpPacket {
  readonly family: Family;
  /** Addresses as bytes. */
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  readonly ttl: number;
  /** Traffic class, and IPv6's flow label. */
  readonly tos: number;
  readonly flow: number;
  /** IPv4's DF; IPv6 never lets a router fragment, but nor does it fragment for a router that asks. */
  readonly dontFragment: boolean;
  /** Absent for a whole datagram. */
  readonly fragment?: Fragment;
  /** UDP header and payload, or the part of them that is here. */
  readonly payload: Uint8Array;
}

/** True for what begins with the UDP header. */
export function hasPorts({ fragment }: UdpPacket): boolean {
  return fragment === undefined || fragment.offset === 0;
}

/** Why nobody can make anything of a packet. */
export type Fault = 'malformed' | 'ip_checksum';

/** Reads a packet that the program has found to be UDP. */
export function readPacket(bytes: Uint8Array): UdpPacket | Fault {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length < HEADER[4]) return 'malformed';
  const packet = bytes[0]! >> 4 === 4 ? readIpv4(bytes, view) : readIpv6(bytes, view);
  const isShort = typeof packet === 'object' && hasPorts(packet) && packet.payload.length < UDP_HEADER;
  return isShort ? 'malformed' : packet;
}

function readIpv4(bytes: Uint8Array, view: DataView): UdpPacket | Fault {
  const header = (bytes[0]! & 0xf) * 4;
  const length = view.getUint16(2);
  if (header < HEADER[4] || length < header || length > bytes.length) return 'malformed';
  if (checksum(sumWords(bytes.subarray(0, header))) !== 0) return 'ip_checksum';
  const flags = view.getUint16(6);
  const fragment = { id: view.getUint16(4), offset: (flags & 0x1fff) * 8, more: (flags & MORE_FRAGMENTS) !== 0 };
  return {
    family: 4,
    source: bytes.subarray(12, 16),
    destination: bytes.subarray(16, 20),
    ttl: bytes[8]!,
    tos: bytes[1]!,
    flow: 0,
    dontFragment: (flags & DONT_FRAGMENT) !== 0,
    ...((fragment.offset > 0 || fragment.more) && { fragment }),
    payload: bytes.subarray(header, length),
  };
}

function readIpv6(bytes: Uint8Array, view: DataView): UdpPacket | Fault {
  const end = HEADER[6] + (bytes.length < HEADER[6] ? 0 : view.getUint16(4));
  if (end > bytes.length) return 'malformed';
  let at: number = HEADER[6];
  let next = bytes[6]!;
  let fragment: Fragment | undefined;
  while (next !== IPPROTO_UDP) {
    if (at + FRAGMENT_HEADER > end) return 'malformed';
    if (next === NEXT.FRAGMENT) {
      const word = view.getUint16(at + 2);
      if (word & 0xfff9) fragment = { id: view.getUint32(at + 4), offset: word & 0xfff8, more: (word & 1) !== 0 };
    } else if (next !== NEXT.HOP_BY_HOP && next !== NEXT.ROUTING && next !== NEXT.DESTINATION) return 'malformed';
    const size = next === NEXT.FRAGMENT ? FRAGMENT_HEADER : (bytes[at + 1]! + 1) * 8;
    next = bytes[at]!;
    at += size;
  }
  if (at > end) return 'malformed';
  const first = view.getUint32(0);
  return {
    family: 6,
    source: bytes.subarray(8, 24),
    destination: bytes.subarray(24, 40),
    ttl: bytes[7]!,
    tos: (first >>> 20) & 0xff,
    flow: first & 0xfffff,
    dontFragment: true,
    ...(fragment && { fragment }),
    payload: bytes.subarray(at, end),
  };
}

/** The datagrams of a packet of several, which all have so many bytes of payload but the last. */
export function segmentsOf(packet: UdpPacket, segment: number): readonly UdpPacket[] {
  if (segment === 0) return [packet];
  const header = packet.payload.subarray(0, UDP_HEADER);
  const datagrams: UdpPacket[] = [];
  for (let at = UDP_HEADER; at < packet.payload.length; at += segment) {
    const data = packet.payload.subarray(at, at + segment);
    const payload = new Uint8Array(UDP_HEADER + data.length);
    payload.set(header);
    payload.set(data, UDP_HEADER);
    new DataView(payload.buffer).setUint16(4, payload.length);
    writeChecksum(packet, payload);
    datagrams.push({ ...packet, payload });
  }
  return datagrams;
}

/** The packet addressed to a downstream, one router further on. */
export function readdressed(packet: UdpPacket, { family, ip, port }: SocketAddress): UdpPacket {
  const destination = encodeIp({ family, ip });
  // What has come to its end here was sent to here: who is on this node shall have it, and nobody behind a router.
  const next = { ...packet, destination, ttl: Math.max(1, packet.ttl - 1) };
  if (!hasPorts(packet)) return next;
  const payload = new Uint8Array(packet.payload);
  const view = new DataView(payload.buffer);
  const check = view.getUint16(6);
  // One that the hardware was to finish (CHECKSUM_PARTIAL) has the pseudo header's sum alone.
  const isUnfinished = packet.fragment === undefined && check === folded(pseudoHeader(packet, packet.payload.length));
  const to = new Uint8Array([port >> 8, port & 0xff]);
  const old = Buffer.concat([packet.destination, packet.payload.subarray(2, 4)]);
  const replaced = checksumReplaced(check, old, Buffer.concat([destination, to]));
  payload.set(to, 2);
  if (isUnfinished) writeChecksum(next, payload);
  else if (check !== 0) view.setUint16(6, replaced || 0xffff);
  return { ...next, payload };
}

function writeChecksum(packet: UdpPacket, payload: Uint8Array): void {
  const view = new DataView(payload.buffer, payload.byteOffset);
  // 0 says that there is none, which only IPv4 may.
  if (packet.family === 4 && view.getUint16(6) === 0) return;
  view.setUint16(6, 0);
  view.setUint16(6, checksum(sumWords(payload, pseudoHeader(packet, payload.length))) || 0xffff);
}

function pseudoHeader({ source, destination }: UdpPacket, length: number): number {
  return sumWords(source) + sumWords(destination) + IPPROTO_UDP + length;
}

/** Bytes of the packet that carries it whole. */
export function lengthOf({ family, fragment, payload }: UdpPacket): number {
  return HEADER[family] + (family === 6 && fragment ? FRAGMENT_HEADER : 0) + payload.length;
}

/** The packets that carry it over links of this MTU; `newId` names the parts of what was whole. */
export function packetsOf(packet: UdpPacket, mtu: number, newId: () => number): readonly Uint8Array[] {
  if (lengthOf(packet) <= mtu) return [encode(packet, packet.payload, packet.fragment)];
  const headers = HEADER[packet.family] + (packet.family === 6 ? FRAGMENT_HEADER : 0);
  const room = Math.max(8, (mtu - headers) & ~7);
  const whole = packet.fragment ?? { id: newId(), offset: 0, more: false };
  const packets: Uint8Array[] = [];
  for (let at = 0; at < packet.payload.length; at += room) {
    const more = whole.more || at + room < packet.payload.length;
    const part = { id: whole.id, offset: whole.offset + at, more };
    packets.push(encode(packet, packet.payload.subarray(at, at + room), part));
  }
  return packets;
}

function encode(packet: UdpPacket, payload: Uint8Array, fragment: Fragment | undefined): Uint8Array {
  const { family, source, destination, tos, flow, ttl } = packet;
  const header = HEADER[family];
  const own = family === 6 && fragment ? FRAGMENT_HEADER : 0;
  const bytes = new Uint8Array(header + own + payload.length);
  const view = new DataView(bytes.buffer);
  const { id = 0, offset = 0, more = false } = fragment ?? {};
  if (family === 4) {
    view.setUint16(0, 0x4500 | tos);
    view.setUint16(2, bytes.length);
    view.setUint16(4, id);
    view.setUint16(
      6,
      (packet.dontFragment && !fragment ? DONT_FRAGMENT : 0) | (more ? MORE_FRAGMENTS : 0) | (offset / 8),
    );
    view.setUint16(8, (ttl << 8) | IPPROTO_UDP);
    bytes.set(source, 12);
    bytes.set(destination, 16);
    view.setUint16(10, checksum(sumWords(bytes.subarray(0, header))));
  } else {
    view.setUint32(0, ((6 << 28) | (tos << 20) | flow) >>> 0);
    view.setUint16(4, own + payload.length);
    view.setUint16(6, ((own ? NEXT.FRAGMENT : IPPROTO_UDP) << 8) | ttl);
    bytes.set(source, 8);
    bytes.set(destination, 24);
    if (own) {
      bytes[header] = IPPROTO_UDP;
      view.setUint16(header + 2, offset | (more ? 1 : 0));
      view.setUint32(header + 4, id);
    }
  }
  bytes.set(payload, header + own);
  return bytes;
}

/** ICMP's way to say that a packet was larger than what lies behind us takes, to whoever sent it (RFC 1191, RFC 8201). */
export function tooBig(packet: UdpPacket, asSent: Uint8Array, mtu: number): Uint8Array {
  return packet.family === 4 ? fragmentationNeeded(packet, asSent, mtu) : packetTooBig(packet, asSent, mtu);
}

/** Destination unreachable, code 4, with as much of the packet as an IPv4 error of 576 bytes holds (RFC 1812, 4.3.2.3). */
function fragmentationNeeded({ source, destination }: UdpPacket, asSent: Uint8Array, mtu: number): Uint8Array {
  const quoted = asSent.subarray(0, 576 - HEADER[4] - 8);
  const bytes = new Uint8Array(HEADER[4] + 8 + quoted.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, 0x45c0);
  view.setUint16(2, bytes.length);
  view.setUint16(8, (64 << 8) | 1);
  bytes.set(destination, 12);
  bytes.set(source, 16);
  view.setUint16(10, checksum(sumWords(bytes.subarray(0, HEADER[4]))));
  view.setUint16(20, 0x0304);
  view.setUint16(26, mtu);
  bytes.set(quoted, 28);
  view.setUint16(22, checksum(sumWords(bytes.subarray(20))));
  return bytes;
}

/** Type 2, with as much of the packet as the least IPv6 MTU holds (RFC 4443, 3.2). */
function packetTooBig({ source, destination }: UdpPacket, asSent: Uint8Array, mtu: number): Uint8Array {
  const quoted = asSent.subarray(0, 1280 - HEADER[6] - 8);
  const bytes = new Uint8Array(HEADER[6] + 8 + quoted.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x60000000);
  view.setUint16(4, 8 + quoted.length);
  view.setUint16(6, (58 << 8) | 64);
  bytes.set(destination, 8);
  bytes.set(source, 24);
  bytes[40] = 2;
  view.setUint32(44, mtu);
  bytes.set(quoted, 48);
  const pseudo = sumWords(source) + sumWords(destination) + 58 + 8 + quoted.length;
  view.setUint16(42, checksum(sumWords(bytes.subarray(40), pseudo)));
  return bytes;
}
