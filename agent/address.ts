/** IP addresses and sockets' addresses as plain values: canonical text for people, 16 bytes for maps. */
import { isIPv4, isIPv6 } from 'node:net';

export type Family = 4 | 6;

/** By family: AF_INET and AF_INET6 of bits/socket.h, bytes of an address, bytes of an IP and a UDP header. */
export const FAMILIES = { 4: { af: 2, bytes: 4, headers: 28 }, 6: { af: 10, bytes: 16, headers: 48 } } as const;

export const BOTH_FAMILIES: readonly Family[] = [4, 6];

/** The family of an AF_ number; undefined for neither of the two. */
export function familyOf(af: number): Family | undefined {
  return af === FAMILIES[4].af ? 4 : af === FAMILIES[6].af ? 6 : undefined;
}

/** `ip` is canonical (RFC 5952 for IPv6), so equal addresses are equal text. */
export interface IpAddress {
  readonly family: Family;
  readonly ip: string;
}

/** An IP address and UDP port. */
export interface SocketAddress extends IpAddress {
  readonly port: number;
}

/** Parses an IP literal without brackets, port or zone into its family and canonical text; undefined if it is none. */
export function parseIp(text: string): IpAddress | undefined {
  if (isIPv4(text)) return { family: 4, ip: text };
  if (!isIPv6(text) || text.includes('%')) return undefined;
  // The URL parser writes IPv6 as RFC 5952 asks, but an embedded IPv4 in hex; that form is only of v4-mapped addresses.
  return { family: 6, ip: new URL(`http://[${text}]`).hostname.slice(1, -1) };
}

/** A socket address as people write it: `10.0.1.10:9000`, `[fd00::1]:9000`. */
export function formatAddress(address: SocketAddress): string {
  return address.family === 4 ? `${address.ip}:${address.port}` : `[${address.ip}]:${address.port}`;
}

/** The 16 bytes of an address in network order; IPv4 fills the first 4 and leaves the rest 0 (union addr in bpf/). */
export function ipBytes(family: Family, ip: string): Uint8Array {
  const bytes = new Uint8Array(16);
  if (family === 4) {
    bytes.set(ip.split('.').map(Number));
    return bytes;
  }
  // Canonical text has no dotted tail, so groups and one `::` are all there is.
  const [head = '', tail] = ip.split('::');
  const groups = (part: string) => (part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16)));
  const left = groups(head);
  const right = tail === undefined ? [] : groups(tail);
  const all = [...left, ...new Array<number>(8 - left.length - right.length).fill(0), ...right];
  for (const [index, group] of all.entries()) {
    bytes[index * 2] = group >> 8;
    bytes[index * 2 + 1] = group & 0xff;
  }
  return bytes;
}

/** The canonical text of an address in network order: 4 bytes are IPv4, 16 are IPv6. */
export function ipText(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.');
  const groups = Array.from({ length: 8 }, (_, index) =>
    ((bytes[index * 2]! << 8) | bytes[index * 2 + 1]!).toString(16),
  );
  return parseIp(groups.join(':'))!.ip;
}

/** True for `0.0.0.0` and `::`. */
export function isWildcard(address: SocketAddress): boolean {
  return address.ip === '0.0.0.0' || address.ip === '::';
}

/** True for 127.0.0.0/8 (RFC 1122) and ::1 (RFC 4291). */
export function isLoopback(ip: string): boolean {
  return ip === '::1' || ip.startsWith('127.');
}

/** The 4 or 16 bytes of an address. */
export function encodeIp({ family, ip }: IpAddress): Uint8Array {
  return ipBytes(family, ip).subarray(0, FAMILIES[family].bytes);
}

/** The address in the first 4 or 16 of `bytes`; fewer are a format error. */
export function decodeIp(family: Family, bytes: Uint8Array): IpAddress {
  const size = FAMILIES[family].bytes;
  if (bytes.length < size) throw new Error(`IPv${family} address of ${bytes.length} bytes: want ${size}`);
  return { family, ip: ipText(bytes.subarray(0, size)) };
}
