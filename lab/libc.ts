/** The few system calls that the lab needs and Node lacks. The only file of the lab that knows koffi. */
import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { SystemError } from '../agent/ffi/errno.ts';

/** Constants of the Linux ABI (asm-generic: x86-64 and arm64 alike). */
export const AF = { INET: 2, INET6: 10, PACKET: 17 } as const;
export const SOCK = { STREAM: 1, DGRAM: 2, RAW: 3, NONBLOCK: 0o4000, CLOEXEC: 0o2000000 } as const;
export const SOL = { IP: 0, SOCKET: 1, UDP: 17, IPV6: 41, PACKET: 263 } as const;
export const SO = { REUSEADDR: 2, SNDTIMEO: 21, SNDBUFFORCE: 32, RCVBUFFORCE: 33, TIMESTAMPNS: 35 } as const;
export const IP = { TOS: 1, TTL: 2, MTU_DISCOVER: 10, RECVTTL: 12, TRANSPARENT: 19 } as const;
export const IPV6 = {
  UNICAST_HOPS: 16,
  MTU_DISCOVER: 23,
  V6ONLY: 26,
  RECVHOPLIMIT: 51,
  TCLASS: 67,
  TRANSPARENT: 75,
} as const;
export const UDP_SEGMENT = 103;
export const PACKET_AUXDATA = 8;
export const POLLIN = 1;
const CLONE_NEWNET = 0x40000000;
const CLOCK_REALTIME = 0;
const EAGAIN = 11;

const libc = koffi.load('libc.so.6');
type Call = (...args: (number | Buffer | null)[]) => number;
const declare = (prototype: string) => libc.func(prototype) as Call;
const raw = {
  setns: declare('int setns(int fd, int nstype)'),
  socket: declare('int socket(int domain, int type, int protocol)'),
  bind: declare('int bind(int fd, const void *addr, uint32_t len)'),
  connect: declare('int connect(int fd, const void *addr, uint32_t len)'),
  getsockname: declare('int getsockname(int fd, void *addr, void *len)'),
  setsockopt: declare('int setsockopt(int fd, int level, int name, const void *value, uint32_t len)'),
  sendto: declare('long sendto(int fd, const void *buf, size_t len, int flags, const void *addr, uint32_t alen)'),
  recvmmsg: declare('int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout)'),
  poll: declare('int poll(void *fds, unsigned long count, int timeout)'),
  clock_gettime: declare('int clock_gettime(int clock, void *time)'),
  if_nametoindex: libc.func('unsigned int if_nametoindex(const char *name)') as (name: string) => number,
  sched_getaffinity: declare('int sched_getaffinity(int pid, size_t size, void *mask)'),
  sched_setaffinity: declare('int sched_setaffinity(int pid, size_t size, const void *mask)'),
};

/** Runs `work` with this thread in the network namespace behind `path`, then returns home. `work` must be synchronous. */
export function insideNamespace<T>(path: string, work: () => T): T {
  const home = openSync('/proc/thread-self/ns/net', 'r');
  try {
    enterNamespace(path);
    return work();
  } finally {
    check('setns', raw.setns(home, CLONE_NEWNET));
    closeSync(home);
  }
}

function enterNamespace(path: string): void {
  const fd = openSync(path, 'r');
  try {
    check('setns', raw.setns(fd, CLONE_NEWNET), path);
  } finally {
    closeSync(fd);
  }
}

/** A new socket, closed on exec; it belongs for life to the network namespace in which it was made. */
export function socket(domain: number, type: number, protocol = 0): number {
  return check('socket', raw.socket(domain, type | SOCK.CLOEXEC, protocol));
}

/** Binds a socket to a sockaddr. */
export function bind(fd: number, address: Buffer): void {
  check('bind', raw.bind(fd, address, address.length));
}

/** Connects a socket; blocks until it is. */
export function connect(fd: number, address: Buffer): void {
  check('connect', raw.connect(fd, address, address.length));
}

/** The sockaddr that a socket is bound to. */
export function boundAddress(fd: number): Buffer {
  const address = Buffer.alloc(128);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(address.length);
  check('getsockname', raw.getsockname(fd, address, length));
  return address.subarray(0, length.readUInt32LE());
}

/** Sets an option that takes an int, or the given bytes. */
export function setOption(fd: number, level: number, name: number, value: number | Buffer): void {
  const bytes = typeof value === 'number' ? Buffer.alloc(4) : value;
  if (typeof value === 'number') bytes.writeInt32LE(value);
  check('setsockopt', raw.setsockopt(fd, level, name, bytes, bytes.length), `level ${level}, option ${name}`);
}

/**
 * Sends the first `length` bytes of `data`; returns 0, or the errno of the failure, which is a value to a sender. Throws
 * if only a part was sent, which no datagram socket should do.
 */
export function sendTo(fd: number, data: Buffer, length: number, address: Buffer): number {
  const sent = raw.sendto(fd, data, length, 0, address, address.length);
  if (sent < 0) return koffi.errno();
  if (sent !== length) throw new Error(`sendto: ${sent} of ${length} bytes were sent`);
  return 0;
}

/** Microseconds since 1970 by the clock with which the kernel stamps what it receives. */
export function realTime(): number {
  const time = Buffer.alloc(16);
  check('clock_gettime', raw.clock_gettime(CLOCK_REALTIME, time));
  return microseconds(time);
}

/** struct timespec in microseconds. */
export function microseconds(time: Buffer): number {
  return Number(time.readBigInt64LE(0)) * 1e6 + Number(time.readBigInt64LE(8)) / 1e3;
}

/** The name of an errno: `EMSGSIZE`. */
export function errnoName(errno: number): string {
  return new SystemError('', errno).code;
}

/** Fills an array of `struct mmsghdr`; returns how many messages came, 0 if none waits. */
export function receiveMessages(fd: number, headers: Buffer, count: number): number {
  const received = raw.recvmmsg(fd, headers, count, 0, null);
  if (received < 0 && koffi.errno() === EAGAIN) return 0;
  return check('recvmmsg', received);
}

/** Waits for one of an array of `struct pollfd`, at most `timeout` ms (-1: for ever); returns how many are ready. */
export function poll(fds: Buffer, timeout: number): number {
  return check('poll', raw.poll(fds, fds.length / 8, timeout));
}

/** The index of an interface of the current namespace. */
export function interfaceIndex(name: string): number {
  const index = raw.if_nametoindex(name);
  if (index === 0) throw new Error(`interface not found: ${name}`);
  return index;
}

/** The memory address of a buffer's first byte; the buffer must outlive its use. */
export function addressOf(buffer: Buffer): bigint {
  return koffi.address(buffer);
}

/** Runs `work` with this thread on one CPU: what it sends is then also received and forwarded on that CPU. */
export function onCpu<T>(cpu: number | undefined, work: () => T): T {
  if (cpu === undefined) return work();
  const before = Buffer.alloc(128);
  check('sched_getaffinity', raw.sched_getaffinity(0, before.length, before));
  const only = Buffer.alloc(128);
  only[cpu >> 3] = 1 << (cpu & 7);
  check('sched_setaffinity', raw.sched_setaffinity(0, only.length, only), `cpu ${cpu}`);
  try {
    return work();
  } finally {
    check('sched_setaffinity', raw.sched_setaffinity(0, before.length, before));
  }
}

function check(operation: string, result: number, detail = ''): number {
  if (result < 0) throw new SystemError(operation, koffi.errno(), detail);
  return result;
}
