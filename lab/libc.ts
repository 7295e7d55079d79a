/**
 * The few system calls that the lab needs and Node lacks. They are made through the agent's binding; what is handed to
 * them, numbers and structures, is the lab's own, so that the lab does not share a mistake of the agent's.
 */
import { closeSync, openSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import koffi from 'koffi';
import { check, SystemError } from '../agent/ffi/errno.ts';
import { libc as agents, call } from '../agent/ffi/libc.ts';
import { recvmmsg } from '../agent/ffi/mmsg.ts';

/** Constants of the Linux ABI (asm-generic: x86-64 and arm64 alike). */
export const AF = { INET: 2, INET6: 10, PACKET: 17 } as const;
export const SOCK = { STREAM: 1, DGRAM: 2, RAW: 3, NONBLOCK: 0o4000, CLOEXEC: 0o2000000 } as const;
export const SOL = { IP: 0, SOCKET: 1, UDP: 17, IPV6: 41, PACKET: 263 } as const;
export const SO = {
  REUSEADDR: 2,
  BROADCAST: 6,
  SNDTIMEO: 21,
  SNDBUFFORCE: 32,
  RCVBUFFORCE: 33,
  TIMESTAMPNS: 35,
} as const;
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
const { EAGAIN, EINTR } = constants.errno;

/** The agent's binding, and what only a lab calls. */
const libc = {
  ...agents,
  /** getsockname(2). */
  getsockname: call('int getsockname(int fd, void *address, void *length)'),
  /** poll(2): descriptors that are ready. */
  poll: call('int poll(void *fds, unsigned long count, int timeout)'),
  /** clock_gettime(2). */
  clock_gettime: call('int clock_gettime(int clock, void *time)'),
  /** if_nametoindex(3): 0 if there is no such interface. */
  if_nametoindex: call('unsigned int if_nametoindex(const void *name)'),
  /** ptrace(2), of which this uses no data. */
  ptrace: call('long ptrace(int request, int thread, void *address, void *data)'),
  /** sched_getcpu(3). */
  sched_getcpu: call('int sched_getcpu()'),
} as const;

/** Runs `work` with this thread in the network namespace behind `path`, then returns home. `work` must be synchronous. */
export function insideNamespace<T>(path: string, work: () => T): T {
  const home = openSync('/proc/thread-self/ns/net', 'r');
  try {
    enterNamespace(path);
    return work();
  } finally {
    check('setns', libc.setns(home, CLONE_NEWNET));
    closeSync(home);
  }
}

function enterNamespace(path: string): void {
  const fd = openSync(path, 'r');
  try {
    check('setns', libc.setns(fd, CLONE_NEWNET), path);
  } finally {
    closeSync(fd);
  }
}

/** A new socket, closed on exec; it belongs for life to the network namespace in which it was made. */
export function socket(domain: number, type: number, protocol = 0): number {
  return check('socket', libc.socket(domain, type | SOCK.CLOEXEC, protocol));
}

/** Binds a socket to a sockaddr. */
export function bind(fd: number, address: Buffer): void {
  check('bind', libc.bind(fd, address, address.length));
}

/** Connects a socket; blocks until it is, however many signals come meanwhile (a child that ends is one). */
export function connect(fd: number, address: Buffer): void {
  let result = 0;
  do result = libc.connect(fd, address, address.length);
  while (result === -EINTR);
  check('connect', result);
}

/** The sockaddr that a socket is bound to. */
export function boundAddress(fd: number): Buffer {
  const address = Buffer.alloc(128);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(address.length);
  check('getsockname', libc.getsockname(fd, address, length));
  return address.subarray(0, length.readUInt32LE());
}

/** Sets an option that takes an int, or the given bytes. */
export function setOption(fd: number, level: number, name: number, value: number | Buffer): void {
  const bytes = typeof value === 'number' ? Buffer.alloc(4) : value;
  if (typeof value === 'number') bytes.writeInt32LE(value);
  check('setsockopt', libc.setsockopt(fd, level, name, bytes, bytes.length), `level ${level}, option ${name}`);
}

/**
 * Sends the first `length` bytes of `data`; returns 0, or the errno of the failure, which is a value to a sender. Throws
 * if only a part was sent, which no datagram socket should do.
 */
export function sendTo(fd: number, data: Buffer, length: number, address: Buffer): number {
  const sent = libc.sendto(fd, data, length, 0, address, address.length);
  if (sent < 0) return -sent;
  if (sent !== length) throw new Error(`sendto: ${sent} of ${length} bytes were sent`);
  return 0;
}

/** Microseconds since 1970 by the clock with which the kernel stamps what it receives. */
export function realTime(): number {
  const time = Buffer.alloc(16);
  check('clock_gettime', libc.clock_gettime(CLOCK_REALTIME, time));
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
  const received = recvmmsg(fd, addressOf(headers), count, 0);
  if (received === -EAGAIN) return 0;
  return check('recvmmsg', received);
}

/** Waits for one of an array of `struct pollfd`, at most `timeout` ms (-1: for ever); returns how many are ready. */
export function poll(fds: Buffer, timeout: number): number {
  return check('poll', libc.poll(fds, fds.length / 8, timeout));
}

/** The index of an interface of the current namespace. */
export function interfaceIndex(name: string): number {
  const index = libc.if_nametoindex(Buffer.from(`${name}\0`));
  if (index === 0) throw new Error(`interface not found: ${name}`);
  return index;
}

/** The memory address of a buffer's first byte; the buffer must outlive its use. */
export function addressOf(buffer: Buffer): bigint {
  return koffi.address(buffer);
}

/** The CPU that this thread runs on. */
export function currentCpu(): number {
  return check('sched_getcpu', libc.sched_getcpu());
}

/** Runs `work` with this thread on one CPU: what it sends is then also received and forwarded on that CPU. */
export function onCpu<T>(cpu: number | undefined, work: () => T): T {
  if (cpu === undefined) return work();
  const before = Buffer.alloc(128);
  check('sched_getaffinity', libc.sched_getaffinity(0, before.length, before));
  const only = Buffer.alloc(128);
  only[cpu >> 3] = 1 << (cpu & 7);
  check('sched_setaffinity', libc.sched_setaffinity(0, only.length, only), `cpu ${cpu}`);
  try {
    return work();
  } finally {
    check('sched_setaffinity', libc.sched_setaffinity(0, before.length, before));
  }
}

/** linux/ptrace.h */
const PTRACE = { DETACH: 17, SEIZE: 0x4206, INTERRUPT: 0x4207 } as const;

/**
 * Stops one thread of another process, as nothing of its own could; the function returned lets it go on. It is held in a
 * system call, where it has none of the locks that the others of its process may want.
 */
export function holdThread(thread: number): () => void {
  const status = (file: string) => readFileSync(`/proc/${thread}/${file}`, 'utf8');
  const release = () => void check('ptrace(DETACH)', libc.ptrace(PTRACE.DETACH, thread, null, null));
  for (;;) {
    check('ptrace(SEIZE)', libc.ptrace(PTRACE.SEIZE, thread, null, null));
    check('ptrace(INTERRUPT)', libc.ptrace(PTRACE.INTERRUPT, thread, null, null));
    while (!/^State:\tt/m.test(status('status')));
    // proc(5): -1 where it is in none.
    if (!status('syscall').startsWith('-1')) return release;
    release();
  }
}
