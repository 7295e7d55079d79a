/**
 * What recvmmsg(2) and sendmmsg(2) read and write, as offsets for typed arrays: the structs of bits/socket.h,
 * linux/socket.h and netinet/in.h, which are the same on x64 and arm64. A test holds them against the C types.
 */
import { encodeIp, FAMILIES, type SocketAddress } from '../../../address.ts';

/** struct mmsghdr: a struct msghdr, then the bytes that one message had. */
export const MMSGHDR = {
  size: 64,
  name: 0,
  namelen: 8,
  iov: 16,
  iovlen: 24,
  control: 32,
  controllen: 40,
  flags: 48,
  len: 56,
} as const;

/** struct iovec. */
export const IOVEC = { size: 16, base: 0, len: 8 } as const;

/** struct cmsghdr and a 16-bit value (UDP_SEGMENT) or a 32-bit one (UDP_GRO), with the room that CMSG_SPACE gives them. */
export const CMSG = { size: 24, len: 0, level: 8, type: 12, data: 16, dataLen: 18 } as const;
/** All that a receive is told of a message: UDP_GRO, and behind it struct in_pktinfo, or of IP_ORIGDSTADDR a sockaddr_in. */
export const RECEIVED_CMSG = {
  room: 56,
  align: 8,
  pktinfo: { v4: 16, v6: 32, local: 20, destination: 24 },
  origdstaddr: { type: 20, address: 20 },
} as const;

/** struct cmsghdr with struct in_pktinfo (linux/in.h) or in6_pktinfo (linux/ipv6.h): the source of one message. */
export const PKTINFO = {
  v4: { level: 0, type: 8, len: 28, size: 32, source: 20 },
  v6: { level: 41, type: 50, len: 36, size: 40, source: 16 },
  room: 48,
} as const;

/** struct sockaddr_in6, the larger of the two, rounded up; sockaddr_in is 16 bytes with its address at 4. */
export const SOCKADDR = { room: 32, 4: { size: 16, addr: 4 }, 6: { size: 28, addr: 8 }, family: 0, port: 2 } as const;

/** struct sockaddr_in or sockaddr_in6. */
export function encodeSockaddr({ family, ip, port }: SocketAddress): Uint8Array<ArrayBuffer> {
  const { size, addr } = SOCKADDR[family];
  const bytes = new Uint8Array(size);
  const data = new DataView(bytes.buffer);
  data.setUint16(SOCKADDR.family, FAMILIES[family].af, true);
  data.setUint16(SOCKADDR.port, port, false);
  bytes.set(encodeIp({ family, ip }), addr);
  return bytes;
}
