/**
 * The libc calls we make. Each is written once, as its C prototype with the types of its manual page: koffi reads it at
 * run time, and the types below read it at compile time (a pointer is a typed array or null, all else a number).
 */
import koffi from 'koffi';

type Argument<C extends string> = C extends `${string}*${string}` ? NodeJS.TypedArray | null : number;
type Arguments<C extends string> = C extends `${infer First}, ${infer Rest}`
  ? [Argument<First>, ...Arguments<Rest>]
  : C extends ''
    ? []
    : [Argument<C>];
type Call<Prototype extends string> = Prototype extends `${string}(${infer List})`
  ? (...values: Arguments<List>) => number
  : never;

/**
 * Every call returns its result, or -errno: `check` throws it; EAGAIN and EINTR are values for the caller. Calls are
 * synchronous and keep no pointer: a buffer is the caller's, used in place and not copied. `long` stands for ssize_t.
 */
export const libc = {
  /** socket(2): a descriptor. */
  socket: call('int socket(int domain, int type, int protocol)'),
  /** bind(2). */
  bind: call('int bind(int fd, const void *address, uint32_t length)'),
  /** connect(2). */
  connect: call('int connect(int fd, const void *address, uint32_t length)'),
  /** send(2): bytes sent. */
  send: call('long send(int fd, const void *buffer, size_t length, int flags)'),
  /** sendto(2): bytes sent. */
  sendto: call('long sendto(int fd, const void *buffer, size_t length, int flags, const void *to, uint32_t toLength)'),
  /** recv(2): bytes received; with MSG_TRUNC the datagram's whole length, though only what fits is written. */
  recv: call('long recv(int fd, void *buffer, size_t length, int flags)'),
  /** setsockopt(2). */
  setsockopt: call('int setsockopt(int fd, int level, int name, const void *value, uint32_t length)'),
  /** getsockopt(2); `length` is a Uint32Array of one, the room before and the size after. */
  getsockopt: call('int getsockopt(int fd, int level, int name, void *value, uint32_t *length)'),
  /** sched_getaffinity(2) of one thread, 0 for the caller's. */
  sched_getaffinity: call('int sched_getaffinity(int thread, size_t size, void *mask)'),
  /** sched_setaffinity(2). */
  sched_setaffinity: call('int sched_setaffinity(int thread, size_t size, const void *mask)'),
  /** prlimit(2) of process 0, the caller's: struct rlimit to set and room for the old one, either null. */
  prlimit: call('int prlimit(int pid, int resource, const void *set, void *old)'),
  /** unshare(2) of the calling thread. */
  unshare: call('int unshare(int flags)'),
  /** setns(2) of the calling thread. */
  setns: call('int setns(int fd, int kind)'),
  /** fcntl(2) with a number as argument. */
  fcntl: call('int fcntl(int fd, int command, int argument)'),
  /** clock_getres(2): struct timespec, two words of 64 bits. */
  clock_getres: call('int clock_getres(int clock, void *resolution)'),
  /** close(2). */
  close: call('int close(int fd)'),
} as const;

/** Numbers of asm-generic/socket.h, linux/socket.h and linux/net.h; the same on x64 and arm64. */
export const AF_NETLINK = 16;
export const AF_PACKET = 17;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK = 0x800;
export const SOCK_CLOEXEC = 0x80000;
export const SOL_SOCKET = 1;
export const SO_SNDBUF = 7;
export const SO_RCVBUF = 8;
export const SO_RCVTIMEO = 20;
export const SO_MARK = 36;
export const SO_SNDBUFFORCE = 32;
export const SO_RCVBUFFORCE = 33;
export const MSG_TRUNC = 0x20;
/** linux/in.h */
export const SOL_IP = 0;
export const IP_TRANSPARENT = 19;
export const IPPROTO_UDP = 17;
/** linux/udp.h: options and control messages by which one send, or one receive, is many datagrams. */
export const SOL_UDP = 17;
export const UDP_SEGMENT = 103;
export const UDP_GRO = 104;
/** asm-generic/resource.h */
export const RLIMIT_NOFILE = 7;
export const RLIMIT_MEMLOCK = 8;
/** linux/fcntl.h: a copy of a descriptor, which does not go to a program that is executed. */
export const F_DUPFD_CLOEXEC = 1030;
/** asm-generic/fcntl.h: sets the flags of what a descriptor is of, for all its copies. */
export const F_SETFL = 4;
/** include/net/net_namespace.h: the index of `lo` in every network namespace. */
export const LOOPBACK_IFINDEX = 1;
/** linux/sched.h */
export const CLONE_NEWNET = 0x40000000;

let library: ReturnType<typeof koffi.load> | undefined;

/** Binds one more call. Library and symbol are looked up when it is first made, so that importing this file costs nothing. */
export function call<const Prototype extends string>(prototype: Prototype): Call<Prototype> {
  let foreign: ((...values: unknown[]) => number) | undefined;
  const wrapper = (...values: unknown[]): number => {
    if (foreign === undefined) {
      library ??= koffi.load('libc.so.6');
      foreign = library.func(prototype) as (...values: unknown[]) => number;
    }
    const result = foreign(...values);
    return result < 0 ? -koffi.errno() : result;
  };
  return wrapper as Call<Prototype>;
}
