/**
 * How a finished IP packet leaves this host with a source that is not this host's. By the program on the way out of `lo`,
 * which redirects it past routing, packet filter, connection tracking and masquerade; where that cannot be (a downstream
 * on this very host, a route that encapsulates, no program on `lo`) by the kernel's own output.
 */
import { FAMILIES, type Family } from '../../../address.ts';
import {
  AF_PACKET,
  LOOPBACK_IFINDEX,
  libc,
  SO_MARK,
  SOCK_NONBLOCK,
  SOCK_RAW,
  SOL_IP,
  SOL_SOCKET,
} from '../../../ffi/libc.ts';
import { openSocket } from '../../../ffi/socket.ts';
import { setBuffer, setOption } from '../../../ffi/socket-options.ts';
import { CONSTANTS } from '../abi.ts';

const ETHERNET = 14;
/** linux/if_ether.h */
const ETHERTYPE = { 4: 0x0800, 6: 0x86dd } as const;
/** A locally administered address that is nobody's: should no program redirect the frame, `lo` drops it as another host's. */
const NOBODY = [0x02, 0, 0, 0, 0xfb, 0];
const IPPROTO_RAW = 255;
const IP_NODEFRAG = 22;
/** Packets whose neighbour does not answer wait in the kernel on the sender's account: room for the others beside them. */
const SEND_BUFFER = 4 << 20;

/** Sends one packet; 0, or the errno. */
export interface Exits {
  /** By the interface of this index. */
  redirect(family: Family, packet: Uint8Array, ifindex: number): number;
  /** By the kernel's own output. */
  output(family: Family, packet: Uint8Array): number;
  close(): void;
}

/** Opens what is needed when it is first needed; an errno is what comes of one that cannot be had. */
export function openExits(): Exits {
  const packetSocket = once(() => openSender(AF_PACKET, 0));
  const rawSocket = { 4: once(() => openRaw(4)), 6: once(() => openRaw(6)) };
  let marked = 0;
  return {
    redirect(family, packet, ifindex) {
      const fd = packetSocket.get();
      if (marked !== ifindex) setOption(fd, SOL_SOCKET, SO_MARK, CONSTANTS.OUT_MARK | ifindex);
      marked = ifindex;
      return sendTo(fd, framed(family, packet), linkAddress(family));
    },
    output: (family, packet) => sendTo(rawSocket[family].get(), packet, destinationOf(family, packet)),
    close() {
      for (const one of [packetSocket, rawSocket[4], rawSocket[6]]) one.close();
    },
  };
}

function sendTo(fd: number, bytes: Uint8Array, to: Uint8Array): number {
  const sent = libc.sendto(fd, bytes, bytes.length, 0, to, to.length);
  return sent < 0 ? -sent : 0;
}

function once(open: () => number) {
  let fd: number | undefined;
  return {
    get: () => {
      fd ??= open();
      return fd;
    },
    close: () => {
      if (fd !== undefined) libc.close(fd);
      fd = undefined;
    },
  };
}

/** raw(7), ipv6(7): with IPPROTO_RAW the packet brings its own IP header, in both families. */
function openRaw(family: Family): number {
  return openSender(FAMILIES[family].af, IPPROTO_RAW, (fd) => {
    // What we have cut up connection tracking must not put together again.
    if (family === 4) setOption(fd, SOL_IP, IP_NODEFRAG, 1);
  });
}

function openSender(domain: number, protocol: number, prepare: (fd: number) => void = () => {}): number {
  return openSocket(domain, SOCK_RAW | SOCK_NONBLOCK, protocol, (fd) => {
    setBuffer(fd, 'send', SEND_BUFFER);
    prepare(fd);
    return fd;
  });
}

function framed(family: Family, packet: Uint8Array): Uint8Array {
  const frame = new Uint8Array(ETHERNET + packet.length);
  frame.set(NOBODY, 0);
  new DataView(frame.buffer).setUint16(12, ETHERTYPE[family]);
  frame.set(packet, ETHERNET);
  return frame;
}

/** struct sockaddr_ll of linux/if_packet.h. */
function linkAddress(family: Family): Uint8Array {
  const bytes = new Uint8Array(20);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF_PACKET, true);
  view.setUint16(2, ETHERTYPE[family]);
  view.setInt32(4, LOOPBACK_IFINDEX, true);
  return bytes;
}

/** struct sockaddr_in or sockaddr_in6 of a packet's destination, without a port. */
function destinationOf(family: Family, packet: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(family === 4 ? 16 : 28);
  new DataView(bytes.buffer).setUint16(0, FAMILIES[family].af, true);
  if (family === 4) bytes.set(packet.subarray(16, 20), 4);
  else bytes.set(packet.subarray(24, 40), 8);
  return bytes;
}
