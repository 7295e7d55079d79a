/** Messages to be sent with one sendmmsg: headers, vectors and the UDP_SEGMENT words, laid out once and reused. */
import type { Family } from '../../../address.ts';
import { SOL_UDP, UDP_SEGMENT } from '../../../ffi/libc.ts';
import { type Address, Memory, MSG_DONTWAIT, sendmmsg } from '../../../ffi/mmsg.ts';
import { CMSG, IOVEC, MMSGHDR, PKTINFO } from './layout.ts';

const WORD = 4;
const HEADER_WORDS = MMSGHDR.size / WORD;
const VECTOR_WORDS = IOVEC.size / WORD;

export class MessageBlock {
  /** Messages so far. */
  count = 0;
  /** Every send succeeds and nothing leaves, whatever the descriptor: for the warm-up alone. */
  discards = false;
  /** By message, for whoever accounts for it: its first datagram, how many, their bytes, and to which downstream. */
  readonly first: Int32Array;
  readonly datagrams: Int32Array;
  readonly bytes: Int32Array;
  readonly downstream: Int32Array;
  /** By message: the size at which the kernel cuts it up, 0 if it is one datagram. */
  readonly segments: Int32Array;
  readonly #headers: Memory;
  readonly #vectors: Memory;
  readonly #controls: Memory;
  /** Where sendmmsg goes on after a message that failed. */
  readonly #starts: readonly Address[];
  #vectorCount = 0;

  /** `vectors`: pieces of payload that all messages of a block have together. */
  constructor(messages: number, vectors: number) {
    this.first = new Int32Array(messages);
    this.datagrams = new Int32Array(messages);
    this.bytes = new Int32Array(messages);
    this.downstream = new Int32Array(messages);
    this.segments = new Int32Array(messages);
    this.#headers = new Memory(messages * MMSGHDR.size);
    this.#vectors = new Memory(vectors * IOVEC.size);
    this.#controls = new Memory(messages * PKTINFO.room);
    this.#starts = Array.from({ length: messages }, (_, i) => this.#headers.address(i * MMSGHDR.size));
    for (let i = 0; i < messages; i++) {
      this.#headers.point(i * MMSGHDR.size + MMSGHDR.control, this.#controls.address(i * PKTINFO.room));
    }
  }

  clear(): void {
    this.count = 0;
    this.#vectorCount = 0;
  }

  /** Begins a message of the datagrams that the caller accounts for; `segment`: the size to cut at, 0 for a plain one. */
  begin(first: number, datagrams: number, bytes: number, downstream: number, segment: number): void {
    const i = this.count++;
    this.first[i] = first;
    this.datagrams[i] = datagrams;
    this.bytes[i] = bytes;
    this.downstream[i] = downstream;
    this.segments[i] = segment;
    const words = this.#headers.u32;
    const at = i * HEADER_WORDS;
    words[at + MMSGHDR.name / WORD] = 0;
    words[at + MMSGHDR.name / WORD + 1] = 0;
    words[at + MMSGHDR.namelen / WORD] = 0;
    words[at + MMSGHDR.iov / WORD] = this.#vectors.low(this.#vectorCount * IOVEC.size);
    words[at + MMSGHDR.iov / WORD + 1] = this.#vectors.high(this.#vectorCount * IOVEC.size);
    words[at + MMSGHDR.iovlen / WORD] = 0;
    words[at + MMSGHDR.controllen / WORD] = 0;
    if (segment === 0) return;
    this.#control(CMSG.dataLen, CMSG.size, SOL_UDP, UDP_SEGMENT);
    this.#controls.u16[(i * PKTINFO.room + CMSG.data) / 2] = segment;
  }

  /** The message's source: words of an address of 4 or 16 bytes. */
  from(words: Uint32Array, at: number, family: Family): void {
    const { level, type, len, size, source } = family === 4 ? PKTINFO.v4 : PKTINFO.v6;
    this.#control(len, size, level, type);
    const to = ((this.count - 1) * PKTINFO.room + source) / WORD;
    for (let word = 0; word < (family === 4 ? 1 : 4); word++) this.#controls.u32[to + word] = words[at + word]!;
    // Every way out will do: the fields beside the source are 0 in both structs.
    this.#controls.u32[family === 4 ? to - 1 : to + 4] = 0;
    if (family === 4) this.#controls.u32[to + 1] = 0;
  }

  /** Where the message goes, on a socket that is not connected: a sockaddr of so many bytes. */
  address(memory: Memory, offset: number, length: number): void {
    const at = (this.count - 1) * HEADER_WORDS;
    this.#headers.u32[at + MMSGHDR.name / WORD] = memory.low(offset);
    this.#headers.u32[at + MMSGHDR.name / WORD + 1] = memory.high(offset);
    this.#headers.u32[at + MMSGHDR.namelen / WORD] = length;
  }

  /** One more piece of the message's payload. */
  piece(memory: Memory, offset: number, length: number): void {
    const at = this.#vectorCount++ * VECTOR_WORDS;
    this.#vectors.u32[at] = memory.low(offset);
    this.#vectors.u32[at + 1] = memory.high(offset);
    this.#vectors.u32[at + IOVEC.len / WORD] = length;
    this.#headers.u32[(this.count - 1) * HEADER_WORDS + MMSGHDR.iovlen / WORD]!++;
  }

  /** Sends the messages from number `from` on without waiting; how many left, or -errno of the first. */
  send(fd: number, from: number): number {
    if (this.discards) return this.count - from;
    return sendmmsg(fd, this.#starts[from]!, this.count - from, MSG_DONTWAIT);
  }

  #control(len: number, size: number, level: number, type: number): void {
    const at = ((this.count - 1) * PKTINFO.room) / WORD;
    this.#controls.u32[at + CMSG.len / WORD] = len;
    this.#controls.u32[at + CMSG.level / WORD] = level;
    this.#controls.u32[at + CMSG.type / WORD] = type;
    this.#headers.u32[(this.count - 1) * HEADER_WORDS + MMSGHDR.controllen / WORD] = size;
  }
}
