/**
 * Room for one batch of messages, and the datagrams that they hold. With UDP_GRO (udp(7), linux/udp.h) the kernel hands
 * over what it has coalesced as one message with the size to cut it at, which spares a receive for each datagram.
 */
import { FAMILIES, type Family } from '../../../address.ts';
import { SOL_UDP } from '../../../ffi/libc.ts';
import { type Address, Memory, MSG_WAITFORONE, recvmmsg } from '../../../ffi/mmsg.ts';
import { CMSG, IOVEC, MMSGHDR, PKTINFO, RECEIVED_CMSG, SOCKADDR } from './layout.ts';

/** linux/socket.h: a message's length is its whole length, though only what fits is written. */
const MSG_TRUNC = 0x20;
const AF_INET = FAMILIES[4].af;
/** The third word of an IPv4-mapped address, ::ffff:0:0/96 (RFC 4291, 2.5.5.2), as a little-endian word. */
const MAPPED = 0xffff_0000;
const WORD = 4;
/** Bytes of the largest message of all, coalesced or not. */
export const LARGEST_MESSAGE = 65536;
/** linux/udp.h, UDP_MAX_SEGMENTS of the newest kernels: datagrams of one message. */
const MOST_DATAGRAMS = 128;
/** In front of each message, where a header of our own may go; as much as keeps the payload on a line of its own. */
const HEADROOM = 64;
/** Buffers a power of two apart would all fall on the same lines of the CPU's caches. */
const APART = 192;

export class ReceiveBatch {
  /** Most messages of a receive, and most datagrams of an `unpack`. */
  readonly messages: number;
  readonly datagrams: number;
  readonly payloads: Memory;
  /** Datagrams that the last `unpack` found. */
  count = 0;
  /** By datagram: its first byte in `payloads`, its size, and its message. */
  readonly at: Int32Array;
  readonly size: Int32Array;
  readonly message: Int32Array;
  readonly #headers: Memory;
  readonly #vectors: Memory;
  readonly #names: Memory;
  readonly #controls: Memory;
  readonly #start: Address;
  /** Bytes that one message may have. */
  readonly room: number;
  readonly #stride: number;
  /** Most datagrams of one message. */
  readonly #most: number;
  /** Where to count by interface what comes to a socket that tells by which: then nothing is a copy. */
  arrivals: Map<number, number> | undefined;
  /** Destinations of IPv4, as words, whose messages are another socket's: of a socket that tells. */
  elsewhere: ReadonlySet<number> | undefined;
  /** Messages from the first on whose headers the kernel, or `pretend`, has written to. */
  #written = 0;

  /** For so many messages of one datagram of so many bytes each, or of as many as the kernel `coalesces`. */
  constructor(messages: number, bytes: number, coalesces: boolean) {
    this.messages = messages;
    this.datagrams = coalesces ? Math.max(1024, messages + MOST_DATAGRAMS) : messages;
    this.#most = coalesces ? MOST_DATAGRAMS : 1;
    this.room = coalesces ? LARGEST_MESSAGE : bytes;
    this.#stride = HEADROOM + Math.ceil(this.room / 64) * 64 + APART;
    this.payloads = new Memory(messages * this.#stride);
    this.#headers = new Memory(messages * MMSGHDR.size);
    this.#vectors = new Memory(messages * IOVEC.size);
    this.#names = new Memory(messages * SOCKADDR.room);
    this.#controls = new Memory(messages * RECEIVED_CMSG.room);
    this.#start = this.#headers.address(0);
    this.at = new Int32Array(this.datagrams);
    this.size = new Int32Array(this.datagrams);
    this.message = new Int32Array(this.datagrams);
    for (let message = 0; message < messages; message++) this.#lay(message);
    this.#written = messages;
  }

  /** Waits for messages as the socket is set to, takes what is there, at most so many; how many, or -errno. */
  receive(fd: number, flags = 0, most = this.messages): number {
    this.#renew();
    const count = recvmmsg(fd, this.#start, most, MSG_WAITFORONE | MSG_TRUNC | flags);
    if (count > 0) this.#written = count;
    return count;
  }

  /**
   * Finds the datagrams of the received messages from number `from` on, below `to`; the message to go on with, since
   * there may be more datagrams than room. A datagram that was cut has its whole size all the same. A copy of what
   * another socket has got too is passed over: `tellCopies` of the socket.
   */
  unpack(from: number, to: number): number {
    const headers = this.#headers.u32;
    this.count = 0;
    let message = from;
    for (; message < to && this.count + this.#most <= this.datagrams; message++) this.#unpackOne(message, headers);
    return message;
  }

  /** True for a datagram that begins its message, so that there is headroom in front of it. */
  hasHeadroom(i: number): boolean {
    return this.at[i] === this.message[i]! * this.#stride + HEADROOM;
  }

  /** Whether a message came over IPv4 or IPv6, whatever the family of the socket. */
  family(message: number): Family {
    const words = this.#names.u32;
    const at = (message * SOCKADDR.room) / WORD;
    if ((words[at]! & 0xffff) === AF_INET) return 4;
    return words[at + 2] === 0 && words[at + 3] === 0 && words[at + 4] === MAPPED ? 4 : 6;
  }

  /** Writes a message's source as five words: port and family, then its address as ipBytes has it. */
  source(message: number, into: Uint32Array, at: number): void {
    const words = this.#names.u32;
    const from = (message * SOCKADDR.room) / WORD;
    const port = words[from]! & 0xffff_0000;
    if (this.family(message) === 6) {
      into[at] = (port | 6) >>> 0;
      for (let word = 0; word < 4; word++) into[at + 1 + word] = words[from + 2 + word]!;
      return;
    }
    const plain = (words[from]! & 0xffff) === AF_INET;
    into[at] = (port | 4) >>> 0;
    into[at + 1] = words[from + (plain ? 1 : 5)]!;
    into[at + 2] = 0;
    into[at + 3] = 0;
    into[at + 4] = 0;
  }

  /** Makes a message of one datagram as if it had been received over IPv4, from one of many sources. */
  pretend(message: number, source: number, size: number): void {
    this.#written = Math.max(this.#written, message + 1);
    const headers = this.#headers.u32;
    const header = (message * MMSGHDR.size) / WORD;
    headers[header + MMSGHDR.len / WORD] = size;
    headers[header + MMSGHDR.controllen / WORD] = 0;
    this.#names.u32[(message * SOCKADDR.room) / WORD] = AF_INET | (source << 16);
    this.#names.u32[(message * SOCKADDR.room) / WORD + 1] = 0x010200c0;
  }

  /**
   * Says anew how much room there is for names and control messages: in a message that came stands how much was used
   * (recvmsg(2)), and the next one may be of another family, or socket. All else there is read only, or written only.
   */
  #renew(): void {
    const headers = this.#headers.u32;
    for (let message = 0; message < this.#written; message++) {
      const header = (message * MMSGHDR.size) / WORD;
      headers[header + MMSGHDR.namelen / WORD] = SOCKADDR[6].size;
      headers[header + MMSGHDR.controllen / WORD] = RECEIVED_CMSG.room;
    }
    this.#written = 0;
  }

  #unpackOne(message: number, headers: Uint32Array): void {
    const header = (message * MMSGHDR.size) / WORD;
    let left = headers[header + MMSGHDR.len / WORD]!;
    let segment = left;
    const told = headers[header + MMSGHDR.controllen / WORD]!;
    if (told !== 0) {
      const from = message * RECEIVED_CMSG.room;
      const controls = this.#controls.u32;
      for (let at = from, next = from; at < from + told; at = next) {
        next = at + Math.ceil(controls[at / WORD]! / RECEIVED_CMSG.align) * RECEIVED_CMSG.align;
        if (controls[(at + CMSG.level) / WORD] === SOL_UDP) segment = controls[(at + CMSG.data) / WORD]!;
        else if (this.elsewhere?.has(this.#destination(at))) return;
        else if (controls[(at + CMSG.type) / WORD] === RECEIVED_CMSG.origdstaddr.type) continue;
        else if (this.arrivals) this.#arrive(at, this.arrivals);
        else if (this.#isCopy(at)) return;
      }
    }
    let at = message * this.#stride + HEADROOM;
    do {
      const size = left < segment ? left : segment;
      this.at[this.count] = at;
      this.size[this.count] = size;
      this.message[this.count] = message;
      this.count++;
      at += size;
      left -= size;
    } while (left > 0);
  }

  /** Whether struct in_pktinfo tells of a destination that is not this host's own address of it (ip(7)). */
  #isCopy(at: number): boolean {
    const { local, destination } = RECEIVED_CMSG.pktinfo;
    const own = this.#controls.u32[(at + local) / WORD]!;
    return own !== 0 && own !== this.#controls.u32[(at + destination) / WORD];
  }

  /** The IPv4 destination in a control message, as a word; 0 if it is of IPv6. */
  #destination(at: number): number {
    const { pktinfo, origdstaddr } = RECEIVED_CMSG;
    const controls = this.#controls.u32;
    if (controls[(at + CMSG.level) / WORD] !== PKTINFO.v6.level) {
      const isOriginal = controls[(at + CMSG.type) / WORD] === origdstaddr.type;
      return controls[(at + (isOriginal ? origdstaddr.address : pktinfo.destination)) / WORD]!;
    }
    const words = (at + CMSG.data) / WORD;
    return controls[words] === 0 && controls[words + 1] === 0 && controls[words + 2] === MAPPED
      ? controls[words + 3]!
      : 0;
  }

  #arrive(at: number, arrivals: Map<number, number>): void {
    const { v4, v6 } = RECEIVED_CMSG.pktinfo;
    const isV6 = this.#controls.u32[(at + CMSG.level) / WORD] === PKTINFO.v6.level;
    const ifindex = this.#controls.u32[(at + (isV6 ? v6 : v4)) / WORD]!;
    arrivals.set(ifindex, (arrivals.get(ifindex) ?? 0) + 1);
  }

  #lay(message: number): void {
    const header = message * MMSGHDR.size;
    const vector = message * IOVEC.size;
    this.#headers.point(header + MMSGHDR.name, this.#names.address(message * SOCKADDR.room));
    this.#headers.point(header + MMSGHDR.iov, this.#vectors.address(vector));
    this.#headers.u32[(header + MMSGHDR.iovlen) / WORD] = 1;
    this.#headers.point(header + MMSGHDR.control, this.#controls.address(message * RECEIVED_CMSG.room));
    this.#vectors.point(vector + IOVEC.base, this.payloads.address(message * this.#stride + HEADROOM));
    this.#vectors.u32[(vector + IOVEC.len) / WORD] = this.room;
  }
}
