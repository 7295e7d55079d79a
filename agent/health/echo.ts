/** ICMP and ICMPv6 echo as bytes (RFC 792, RFC 4443): pure. */
import type { Family } from '../address.ts';

export interface Echo {
  readonly identifier: number;
  readonly sequence: number;
  /** What the other side must send back as it is. */
  readonly data: Uint8Array;
}

/** Types, both with code 0 (RFC 792 page 14; RFC 4443, 4.1 and 4.2). */
export const ECHO = { 4: { request: 8, reply: 0 }, 6: { request: 128, reply: 129 } } as const;
const HEADER = 8;

/** An echo request. Over IPv6 the kernel writes the checksum, which takes in the addresses (RFC 3542, 3.1). */
export function encodeRequest(family: Family, { identifier, sequence, data }: Echo): Buffer {
  const packet = Buffer.allocUnsafe(HEADER + data.length);
  packet[0] = ECHO[family].request;
  packet[1] = 0;
  setWord(packet, 2, 0);
  setWord(packet, 4, identifier);
  setWord(packet, 6, sequence);
  packet.set(data, HEADER);
  if (family === 4) setWord(packet, 2, checksum(packet));
  return packet;
}

/** The echo reply in what a raw socket received: with the IP header for IPv4, without for IPv6 (raw(7), ipv6(7)). */
export function decodeReply(family: Family, received: Buffer): Echo | undefined {
  const at = family === 4 ? (received[0]! & 0xf) * 4 : 0;
  if (received.length < at + HEADER || received[at] !== ECHO[family].reply || received[at + 1] !== 0) return undefined;
  return { identifier: word(received, at + 4), sequence: word(received, at + 6), data: received.subarray(at + HEADER) };
}

function word(bytes: Buffer, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

function setWord(bytes: Buffer, at: number, value: number): void {
  bytes[at] = value >> 8;
  bytes[at + 1] = value;
}

/** The Internet checksum (RFC 1071) of a packet whose own field is still 0. */
function checksum(packet: Buffer): number {
  let sum = 0;
  for (let at = 0; at < packet.length; at += 2) sum += (packet[at]! << 8) | (packet[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
