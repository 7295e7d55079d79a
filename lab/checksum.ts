/** The Internet checksum (RFC 1071) and the pseudo-headers that UDP and TCP put into it. */
import { ipBytes } from '../agent/address.ts';

/** The ones' complement sum of 16-bit words over all parts, folded but not inverted. Only the last part may be odd. */
export function onesSum(...parts: readonly Uint8Array[]): number {
  let sum = 0;
  for (const part of parts) {
    for (let at = 0; at < part.length; at += 2) sum += (part[at]! << 8) | (part[at + 1] ?? 0);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}

/** The checksum over all parts: 0 if they hold a right one already. */
export function checksum(...parts: readonly Uint8Array[]): number {
  return ~onesSum(...parts) & 0xffff;
}

/** RFC 768 for IPv4 and RFC 8200, section 8.1, for IPv6: addresses, protocol and the length of what follows. */
export function pseudoHeader(src: string, dst: string, protocol: number, length: number): Buffer {
  const family = src.includes(':') ? 6 : 4;
  const size = family === 4 ? 4 : 16;
  const tail = Buffer.alloc(family === 4 ? 4 : 8);
  tail.writeUInt16BE(length, 2);
  tail.writeUInt8(protocol, family === 4 ? 1 : 7);
  return Buffer.concat([ipBytes(family, src).subarray(0, size), ipBytes(family, dst).subarray(0, size), tail]);
}
