/** The sockets of the userspace datapath: opened, told what they need, and what the kernel made of it. */
import { constants } from 'node:os';
import { FAMILIES, type Family, isWildcard, type SocketAddress } from '../../../address.ts';
import { check } from '../../../ffi/errno.ts';
import {
  IP_TRANSPARENT,
  IPPROTO_UDP,
  LOOPBACK_IFINDEX,
  libc,
  SO_RCVBUF,
  SO_RCVTIMEO,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_RAW,
  SOL_IP,
  SOL_SOCKET,
  SOL_UDP,
  UDP_GRO,
} from '../../../ffi/libc.ts';
import { openSocket } from '../../../ffi/socket.ts';
import { setBuffer, setOption } from '../../../ffi/socket-options.ts';
import { encodeSockaddr } from '../messages/layout.ts';

/** asm-generic/socket.h */
const SO = { REUSEADDR: 2, REUSEPORT: 15, MEMINFO: 55, BINDTOIFINDEX: 62 } as const;
/** An interface that no host has: a socket that is bound to it receives nothing. */
const NO_INTERFACE = 0x7fff_ffff;
/** linux/sock_diag.h: what SO_RXQ_OVFL reports with a datagram, readable at any time. */
const SK_MEMINFO_DROPS = 8;
/** linux/in.h, linux/in6.h */
const IP = { PKTINFO: 8, MTU_DISCOVER: 10, FREEBIND: 15, RECVORIGDSTADDR: 20 } as const;
const SOL_IPV6 = 41;
const IPV6 = {
  RECVPKTINFO: 49,
  MTU_DISCOVER: 23,
  V6ONLY: 26,
  MULTICAST_ALL: 29,
  TRANSPARENT: 75,
  FREEBIND: 78,
} as const;
const PMTUDISC_DONT = 0;
/** Addresses of this host that nobody else has a reason to send to. */
const NOWHERE = { 4: '127.255.255.254', 6: '::1' } as const;
/**
 * Datagrams for a downstream whose neighbour does not answer wait in the kernel on the sender's account, up to 208 KiB
 * each (unres_qlen_bytes): there has to be room for the others beside them.
 */
const SEND_BUFFER = 4 << 20;
/** A receive that nothing ends sees within so long that the agent wants its thread back. */
const RECEIVE_TIMEOUT_US = 100_000n;

export interface ListenerSocket {
  readonly fd: number;
  /** Bytes of receive buffer asked for and got, where less was got. */
  readonly clamped?: { readonly asked: number; readonly got: number };
}

/** How a listener's socket differs from any other. */
export interface ListenerOptions {
  /** Asked for with SO_RCVBUFFORCE, or else SO_RCVBUF. */
  readonly receiveBuffer: number;
  /** Whether a receive waits, or says EAGAIN. */
  readonly blocking: boolean;
  /** Whether the kernel may hand over what it has coalesced as one message. */
  readonly coalesces: boolean;
  /** Whether `[::]` leaves IPv4 to another listener. */
  readonly onlyIpv6: boolean;
  /** Whether another socket of the same address gets every broadcast and multicast. */
  readonly isFurther: boolean;
  /** Whether a message tells by which interface it came. */
  readonly tellsArrival: boolean;
  /** Whether one of IPv4 tells where it was sent to, since some broadcasts are another listener's: `elsewhere` of a snapshot. */
  readonly tellsDestination?: boolean;
}

/** One of a listener's sockets, which receives nothing before it is bound. Throws SystemError. */
export function openListenerSocket(bind: SocketAddress, options: ListenerOptions): ListenerSocket {
  return opened(bind.family, SOCK_DGRAM | (options.blocking ? 0 : SOCK_NONBLOCK), 0, (fd) => {
    setOption(fd, SOL_SOCKET, SO.REUSEPORT, 1);
    if (bind.family === 6) setOption(fd, SOL_IPV6, IPV6.V6ONLY, bind.ip === '::' && !options.onlyIpv6 ? 0 : 1);
    if (bind.ip !== '::' && bind.ip !== '0.0.0.0') {
      // A VIP may be on no interface yet; and whoever has the port on all addresses may keep the others.
      if (bind.family === 4) setOption(fd, SOL_IP, IP.FREEBIND, 1);
      else setOption(fd, SOL_IPV6, IPV6.FREEBIND, 1);
      setOption(fd, SOL_SOCKET, SO.REUSEADDR, 1);
    }
    const timeout = new BigInt64Array([0n, RECEIVE_TIMEOUT_US]);
    if (options.blocking) setOption(fd, SOL_SOCKET, SO_RCVTIMEO, timeout);
    if (options.coalesces) setOption(fd, SOL_UDP, UDP_GRO, 1);
    if (options.isFurther) tellCopies(fd, bind);
    if (options.tellsArrival) tellArrival(fd, bind.family);
    // All others say so already, by which a copy is known.
    else if (options.tellsDestination && !options.isFurther) setOption(fd, SOL_IP, IP.RECVORIGDSTADDR, 1);
    const clamped = setReceiveBuffer(fd, options.receiveBuffer);
    return { fd, ...(clamped && { clamped }) };
  });
}

/**
 * Throws SystemError where nobody may bind to the address, or somebody has. No datagram comes here meanwhile; but to one
 * IPv6 address the kernel binds only a socket whose interface there is (ipv6/af_inet6.c, __inet6_bind), so to that one
 * this host's own may come, for the moment that it is open.
 */
export function tryBind(bind: SocketAddress, options: ListenerOptions): void {
  const { fd } = openListenerSocket(bind, options);
  try {
    if (bind.family === 6 && !isWildcard(bind)) setOption(fd, SOL_SOCKET, SO.BINDTOIFINDEX, LOOPBACK_IFINDEX);
    else withdraw(fd);
    bindTo(fd, bind);
  } finally {
    libc.close(fd);
  }
}

/**
 * Takes a socket out of its SO_REUSEPORT group, at once and for good: what comes from now on goes to the others, and what
 * is in its buffer can still be received. Throws SystemError.
 */
export function withdraw(fd: number): void {
  setOption(fd, SOL_SOCKET, SO.BINDTOIFINDEX, NO_INTERFACE);
}

/**
 * SO_REUSEPORT shares out what is sent to one host, but each socket gets its copy of every broadcast and multicast
 * (udp.c, __udp4_lib_mcast_deliver). Of IPv6 the kernel can keep them from all sockets but the first. Of IPv4 it cannot:
 * not broadcasts, and multicasts that only one socket is to have it shares out all the same (since Linux 6.6, by
 * udp_v4_early_demux). But it tells of them: such a message is for another address than the host's own.
 */
function tellCopies(fd: number, bind: SocketAddress): void {
  if (bind.family === 6) setOption(fd, SOL_IPV6, IPV6.MULTICAST_ALL, 0);
  if (isWildcard(bind) || isBroadcast(bind)) setOption(fd, SOL_IP, IP.PKTINFO, 1);
}

function tellArrival(fd: number, family: Family): void {
  if (family === 4) setOption(fd, SOL_IP, IP.PKTINFO, 1);
  else setOption(fd, SOL_IPV6, IPV6.RECVPKTINFO, 1);
}

/** The kernel knows the interfaces' broadcast addresses: it lets no socket connect to one that has not asked for it. */
export function isBroadcast(bind: SocketAddress): boolean {
  if (bind.family === 6) return false;
  return opened(4, SOCK_DGRAM, 0, (fd) => {
    const bytes = encodeSockaddr(bind);
    const result = libc.connect(fd, bytes, bytes.byteLength);
    libc.close(fd);
    return result === -constants.errno.EACCES;
  });
}

/** Datagrams that found the receive buffer full since the socket was made, modulo 2^32. Throws SystemError. */
export function receiveDrops(fd: number): number {
  const info = new Uint32Array(SK_MEMINFO_DROPS + 1);
  const result = libc.getsockopt(fd, SOL_SOCKET, SO.MEMINFO, info, new Uint32Array([info.byteLength]));
  check('getsockopt(SO_MEMINFO)', result);
  return info[SK_MEMINFO_DROPS]!;
}

/** A socket that sends from this host's own address; with `to`, to one address only, whose errors it then tells. */
export function openNatSocket(family: Family, to?: Uint8Array): number {
  return opened(family, SOCK_DGRAM, 0, (fd) => {
    prepareSender(fd, family);
    if (to) check('connect', libc.connect(fd, to, to.byteLength));
    return fd;
  });
}

/** A socket that sends from any address, this host's or not. Throws SystemError, EPERM without the capability. */
export function openTransparentSocket(family: Family, from: Uint32Array): number {
  return opened(family, SOCK_DGRAM, 0, (fd) => {
    prepareSender(fd, family);
    setTransparent(fd, family);
    // Another worker or listener may have the same client; none of these sockets ever receives.
    setOption(fd, SOL_SOCKET, SO.REUSEADDR, 1);
    check('bind', libc.bind(fd, from, from.byteLength));
    return fd;
  });
}

/** A socket for datagrams that bring their own UDP header. Throws SystemError, EPERM without CAP_NET_RAW. */
export function openRawSocket(family: Family): number {
  return opened(family, SOCK_RAW, IPPROTO_UDP, (fd) => {
    prepareSender(fd, family);
    // It may then have an address that is on no interface: `lo` need not have IPv6.
    setTransparent(fd, family);
    // A raw socket gets a copy of all that comes for its address: so it has one for which nothing comes.
    bindTo(fd, { family, ip: NOWHERE[family], port: 0 });
    return fd;
  });
}

/** How a forwarder's sockets are opened; the warm-up has its own. */
export const SENDERS = { nat: openNatSocket, raw: openRawSocket, client: openTransparentSocket } as const;
export type Senders = typeof SENDERS;

function opened<T>(family: Family, type: number, protocol: number, prepare: (fd: number) => T): T {
  return openSocket(FAMILIES[family].af, type, protocol, prepare);
}

function prepareSender(fd: number, family: Family): void {
  setBuffer(fd, 'send', SEND_BUFFER);
  // Nobody reads answers here: they must not fill more than the least that a socket has.
  setOption(fd, SOL_SOCKET, SO_RCVBUF, 0);
  // Routers on the way may fragment, for whom else would they tell? The client, who knows nothing of the downstream.
  if (family === 4) setOption(fd, SOL_IP, IP.MTU_DISCOVER, PMTUDISC_DONT);
  else setOption(fd, SOL_IPV6, IPV6.MTU_DISCOVER, PMTUDISC_DONT);
}

function setTransparent(fd: number, family: Family): void {
  if (family === 4) setOption(fd, SOL_IP, IP_TRANSPARENT, 1);
  else setOption(fd, SOL_IPV6, IPV6.TRANSPARENT, 1);
}

/** What was asked and got if it was less; undefined if all is as asked. */
function setReceiveBuffer(fd: number, asked: number): ListenerSocket['clamped'] {
  setBuffer(fd, 'receive', asked);
  const got = new Int32Array(1);
  check('getsockopt(SO_RCVBUF)', libc.getsockopt(fd, SOL_SOCKET, SO_RCVBUF, got, new Uint32Array([4])));
  // The kernel doubles what it grants, for its own bookkeeping (socket(7)).
  return got[0]! / 2 < asked ? { asked, got: got[0]! / 2 } : undefined;
}

/** Throws SystemError. */
export function bindTo(fd: number, address: SocketAddress): void {
  const bytes = encodeSockaddr(address);
  check('bind', libc.bind(fd, bytes, bytes.byteLength));
}
