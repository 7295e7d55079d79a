/** IP addresses as netlink gives and takes them: an address family number and bare bytes. */
import { type Family, ipBytes, ipText } from '../address.ts';
import { AF_INET, AF_INET6 } from '../ffi/libc.ts';
import { NetlinkFormatError } from './message.ts';

const SIZE = { 4: 4, 6: 16 } as const;

export interface Ip {
  readonly family: Family;
  readonly ip: string;
}

/** The family of an AF_ number; undefined for neither of the two. */
export function familyOf(af: number): Family | undefined {
  return af === AF_INET ? 4 : af === AF_INET6 ? 6 : undefined;
}

/** The AF_ number of a family. */
export function afOf(family: Family): number {
  return family === 4 ? AF_INET : AF_INET6;
}

/** The 4 or 16 bytes of an address. */
export function encodeIp({ family, ip }: Ip): Uint8Array {
  return ipBytes(family, ip).subarray(0, SIZE[family]);
}

/** The address in the first 4 or 16 of `bytes`; fewer are a format error. */
export function decodeIp(family: Family, bytes: Uint8Array): Ip {
  const size = SIZE[family];
  if (bytes.length < size) throw new NetlinkFormatError(`IPv${family} address of ${bytes.length} bytes: want ${size}`);
  return { family, ip: ipText(bytes.subarray(0, size)) };
}
