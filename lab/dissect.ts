/** Reads a frame back into fields and says whether its checksums are right. Stops, never throws, where bytes lack. */
import { ipText } from '../agent/address.ts';
import { checksum, onesSum, pseudoHeader } from './checksum.ts';
import { ETHER, EXTENSION, PROTOCOL } from './ip.ts';

/**
 * `partial`: only the pseudo-header's sum is there, the rest is left to hardware (CHECKSUM_PARTIAL). `fragment`: it
 * covers bytes of other frames.
 */
export type ChecksumState = 'valid' | 'wrong' | 'zero' | 'partial' | 'fragment';

export interface Dissected {
  readonly smac: string;
  readonly dmac: string;
  readonly etherType: number;
  /** The VLAN id, if there is a tag. */
  readonly vlan?: number;
  readonly ip?: DissectedIp;
  readonly udp?: DissectedUdp;
  readonly tcp?: { readonly sport: number; readonly dport: number; readonly flags: number };
  readonly icmp?: { readonly type: number; readonly code: number; readonly body: Buffer };
  readonly arp?: { readonly operation: 'request' | 'reply'; readonly src: string; readonly dst: string };
}

export interface DissectedIp {
  readonly version: 4 | 6;
  readonly src: string;
  readonly dst: string;
  /** TTL or hop limit. */
  readonly ttl: number;
  /** TOS or traffic class. */
  readonly tos: number;
  /** Of what follows the IP header and its extensions. */
  readonly protocol: number;
  /** What the header claims of the packet's length in bytes, IP header included. */
  readonly length: number;
  readonly fragment?: { readonly id: number; readonly offset: number; readonly more: boolean };
  /** IPv6 has no checksum of its own and is always `valid`. */
  readonly checksum: 'valid' | 'wrong';
  readonly df: boolean;
  /** What follows the IP header and its extensions. */
  readonly body: Buffer;
}

export interface DissectedUdp {
  readonly sport: number;
  readonly dport: number;
  /** What the header claims to be long, itself included. */
  readonly length: number;
  readonly checksum: ChecksumState;
  readonly payload: Buffer;
}

/** Dissects an Ethernet frame. */
export function dissect(frame: Buffer): Dissected {
  const mac = (at: number) => frame.toString('hex', at, at + 6).replace(/(..)(?=.)/g, '$1:');
  const tagged = frame.length >= 18 && frame.readUInt16BE(12) === ETHER.VLAN;
  const typeAt = tagged ? 16 : 12;
  const etherType = frame.length >= typeAt + 2 ? frame.readUInt16BE(typeAt) : 0;
  const vlan = tagged ? { vlan: frame.readUInt16BE(14) & 0xfff } : {};
  return { smac: mac(6), dmac: mac(0), etherType, ...vlan, ...network(etherType, frame.subarray(typeAt + 2)) };
}

function network(etherType: number, packet: Buffer): Partial<Dissected> {
  if (etherType === ETHER.ARP && packet.length >= 28) return { arp: dissectArp(packet) };
  const ip = etherType === ETHER.IPV4 ? dissectIp4(packet) : etherType === ETHER.IPV6 ? dissectIp6(packet) : undefined;
  if (!ip) return {};
  // The ports are only in the first fragment.
  if (ip.fragment && ip.fragment.offset > 0) return { ip };
  return { ip, ...transport(ip) };
}

function dissectArp(packet: Buffer) {
  const operation = packet.readUInt16BE(6) === 1 ? ('request' as const) : ('reply' as const);
  return { operation, src: ipText(packet.subarray(14, 18)), dst: ipText(packet.subarray(24, 28)) };
}

function dissectIp4(packet: Buffer): DissectedIp | undefined {
  const headerLength = ((packet[0] ?? 0) & 0xf) * 4;
  if (headerLength < 20 || packet.length < headerLength) return undefined;
  const flags = packet.readUInt16BE(6);
  const more = (flags & 0x2000) !== 0;
  const offset = (flags & 0x1fff) * 8;
  const length = packet.readUInt16BE(2);
  return {
    version: 4,
    src: ipText(packet.subarray(12, 16)),
    dst: ipText(packet.subarray(16, 20)),
    ttl: packet.readUInt8(8),
    tos: packet.readUInt8(1),
    protocol: packet.readUInt8(9),
    length,
    ...(more || offset > 0 ? { fragment: { id: packet.readUInt16BE(4), offset, more } } : {}),
    checksum: checksum(packet.subarray(0, headerLength)) === 0 ? 'valid' : 'wrong',
    df: (flags & 0x4000) !== 0,
    // A frame may be padded to 60 bytes, so the packet's end is where its header says.
    body: packet.subarray(headerLength, Math.max(headerLength, length)),
  };
}

function dissectIp6(packet: Buffer): DissectedIp | undefined {
  if (packet.length < 40) return undefined;
  const length = 40 + packet.readUInt16BE(4);
  const end = packet.subarray(0, length);
  let protocol = packet.readUInt8(6);
  let at = 40;
  let fragment: DissectedIp['fragment'];
  while (Object.values<number>(EXTENSION).includes(protocol) && end.length >= at + 8) {
    if (protocol === EXTENSION.fragment) {
      const word = end.readUInt16BE(at + 2);
      fragment = { id: end.readUInt32BE(at + 4), offset: word & ~7, more: (word & 1) === 1 };
    }
    const size = protocol === EXTENSION.fragment ? 8 : 8 + end.readUInt8(at + 1) * 8;
    protocol = end.readUInt8(at);
    at += size;
  }
  return {
    version: 6,
    src: ipText(packet.subarray(8, 24)),
    dst: ipText(packet.subarray(24, 40)),
    ttl: packet.readUInt8(7),
    tos: (packet.readUInt16BE(0) >> 4) & 0xff,
    protocol,
    length,
    ...(fragment ? { fragment } : {}),
    checksum: 'valid',
    df: true,
    body: end.subarray(at),
  };
}

function transport(ip: DissectedIp): Partial<Dissected> {
  const { protocol, body } = ip;
  if (protocol === PROTOCOL.UDP && body.length >= 8) return { udp: dissectUdp(ip) };
  if (protocol === PROTOCOL.TCP && body.length >= 20) {
    return { tcp: { sport: body.readUInt16BE(0), dport: body.readUInt16BE(2), flags: body.readUInt8(13) } };
  }
  if ((protocol === PROTOCOL.ICMP || protocol === PROTOCOL.ICMPV6) && body.length >= 8) {
    return { icmp: { type: body.readUInt8(0), code: body.readUInt8(1), body: body.subarray(8) } };
  }
  return {};
}

function dissectUdp(ip: DissectedIp): DissectedUdp {
  const { body } = ip;
  return {
    sport: body.readUInt16BE(0),
    dport: body.readUInt16BE(2),
    length: body.readUInt16BE(4),
    checksum: udpChecksum(ip),
    payload: Buffer.from(body.subarray(8)),
  };
}

function udpChecksum({ src, dst, body, fragment }: DissectedIp): ChecksumState {
  const found = body.readUInt16BE(6);
  if (found === 0) return 'zero';
  if (fragment?.more) return 'fragment';
  const pseudo = pseudoHeader(src, dst, PROTOCOL.UDP, body.length);
  if (checksum(pseudo, body) === 0) return 'valid';
  return found === onesSum(pseudo) ? 'partial' : 'wrong';
}
