/**
 * Ethernet frames as bytes, from a description in which every field has a sound default and may also lie: headers and
 * checksums are right unless asked otherwise.
 */
import { ipBytes } from '../agent/address.ts';
import { checksum, pseudoHeader } from './checksum.ts';
import {
  CLIENT_MAC,
  ETHER,
  type Ethernet,
  ethernet,
  type Fragment,
  type Ip,
  type Ip4,
  type Ip6,
  ip4,
  ip6,
  macBytes,
  NODE_MAC,
  PROTOCOL,
} from './ip.ts';

export interface Udp {
  readonly sport: number;
  readonly dport: number;
  readonly payload?: Uint8Array;
  readonly csum?: 'valid' | 'zero' | 'wrong';
  /** What the UDP header claims to be long in bytes; the truth. */
  readonly udpLen?: number;
}

export interface Tcp {
  readonly sport: number;
  readonly dport: number;
  readonly payload?: Uint8Array;
  /** The flags byte; SYN. */
  readonly flags?: number;
}

/** A UDP datagram, or one fragment of it, over IPv4. */
export function udp4(fields: Ip4 & Udp): Buffer {
  return ip4(fields, PROTOCOL.UDP, udpBody(fields));
}

/** A UDP datagram, or one fragment of it, over IPv6. */
export function udp6(fields: Ip6 & Udp): Buffer {
  return ip6(fields, PROTOCOL.UDP, udpBody(fields));
}

/** A TCP segment over IPv4; a SYN if nothing else is said. */
export function tcp4(fields: Ip4 & Tcp): Buffer {
  return ip4(fields, PROTOCOL.TCP, tcpSegment(fields));
}

/** The same over IPv6. */
export function tcp6(fields: Ip6 & Tcp): Buffer {
  return ip6(fields, PROTOCOL.TCP, tcpSegment(fields));
}

/** A whole datagram cut into the frames that an MTU allows, in order. UDP's checksum is over the whole. */
export function fragments4(fields: Omit<Ip4 & Udp, 'fragment'>, mtu = 1500): Buffer[] {
  return cut(udpSegment(fields), (mtu - 20) & ~7, fields.id ?? 1, (fragment, piece) => {
    return ip4({ ...fields, fragment }, PROTOCOL.UDP, piece);
  });
}

/** The same for IPv6, with fragment headers. */
export function fragments6(fields: Omit<Ip6 & Udp, 'fragment'>, mtu = 1500, id = 1): Buffer[] {
  return cut(udpSegment(fields), (mtu - 48) & ~7, id, (fragment, piece) => {
    return ip6({ ...fields, fragment }, PROTOCOL.UDP, piece);
  });
}

/** An ARP request or reply (RFC 826). */
export function arp(fields: Ethernet & { operation: 'request' | 'reply'; src: string; dst: string }): Buffer {
  const { smac = CLIENT_MAC, dmac = fields.operation === 'request' ? 'ff:ff:ff:ff:ff:ff' : NODE_MAC } = fields;
  const body = Buffer.alloc(28);
  body.set([0, 1, 8, 0, 6, 4, 0, fields.operation === 'request' ? 1 : 2]);
  body.set(macBytes(smac), 8);
  body.set(ipBytes(4, fields.src).subarray(0, 4), 14);
  if (fields.operation === 'reply') body.set(macBytes(dmac), 18);
  body.set(ipBytes(4, fields.dst).subarray(0, 4), 24);
  return ethernet({ ...fields, smac, dmac }, ETHER.ARP, body);
}

function udpBody(fields: Ip & Udp): Uint8Array {
  return fields.fragment && fields.fragment.offset > 0 ? (fields.payload ?? Buffer.alloc(0)) : udpSegment(fields);
}

function udpSegment({ src, dst, sport, dport, payload = Buffer.alloc(0), csum = 'valid', udpLen }: Ip & Udp): Buffer {
  const header = Buffer.alloc(8);
  const length = 8 + payload.length;
  header.writeUInt16BE(sport, 0);
  header.writeUInt16BE(dport, 2);
  header.writeUInt16BE(udpLen ?? length, 4);
  if (csum !== 'zero') {
    // A sum of 0 is sent as all ones, since 0 says that there is none.
    const right = checksum(pseudoHeader(src, dst, PROTOCOL.UDP, udpLen ?? length), header, payload) || 0xffff;
    header.writeUInt16BE(csum === 'valid' ? right : right ^ 0x5555, 6);
  }
  return Buffer.concat([header, payload]);
}

function tcpSegment({ src, dst, sport, dport, payload = Buffer.alloc(0), flags = 2 }: Ip & Tcp): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt16BE(sport, 0);
  header.writeUInt16BE(dport, 2);
  header.writeUInt8(5 << 4, 12);
  header.writeUInt8(flags, 13);
  header.writeUInt16BE(0xffff, 14);
  const length = header.length + payload.length;
  header.writeUInt16BE(checksum(pseudoHeader(src, dst, PROTOCOL.TCP, length), header, payload), 16);
  return Buffer.concat([header, payload]);
}

function cut(whole: Buffer, size: number, id: number, build: (fragment: Fragment, piece: Buffer) => Buffer): Buffer[] {
  const offsets = Array.from({ length: Math.ceil(whole.length / size) }, (_, index) => index * size);
  return offsets.map((offset) => {
    return build({ id, offset, more: offset + size < whole.length }, whole.subarray(offset, offset + size));
  });
}
