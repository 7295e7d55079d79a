/** A batch of messages for recvmmsg: one system call fetches what waits on a socket, with its control data. */
import { addressOf, receiveMessages } from './libc.ts';

const MMSGHDR = 64;
const IOVEC = 16;
const NAME = 128;
const CONTROL = 128;

/** One received message; its buffers are valid until the batch's next `receive`. */
export interface Message {
  readonly data: Buffer;
  /** The sender's sockaddr. */
  readonly name: Buffer;
  /** The data of the only control message that was asked for; empty if none came. */
  readonly control: Buffer;
}

/** Preallocated room for `size` messages of at most `room` bytes each. */
export class MessageBatch {
  readonly #size: number;
  readonly #room: number;
  readonly #headers: Buffer;
  readonly #vectors: Buffer;
  readonly #names: Buffer;
  readonly #controls: Buffer;
  readonly #data: Buffer;

  constructor(size = 32, room = 65536) {
    this.#size = size;
    this.#room = room;
    this.#headers = Buffer.alloc(size * MMSGHDR);
    this.#vectors = Buffer.alloc(size * IOVEC);
    this.#names = Buffer.alloc(size * NAME);
    this.#controls = Buffer.alloc(size * CONTROL);
    this.#data = Buffer.alloc(size * room);
    for (let i = 0; i < size; i++) this.#point(i);
  }

  /** Fetches what waits on the socket, up to the batch's size, without blocking; `each` sees every message. */
  receive(fd: number, each: (message: Message) => void): number {
    for (let i = 0; i < this.#size; i++) {
      this.#headers.writeUInt32LE(NAME, i * MMSGHDR + 8);
      this.#headers.writeUInt32LE(CONTROL, i * MMSGHDR + 40);
    }
    const count = receiveMessages(fd, this.#headers, this.#size);
    for (let i = 0; i < count; i++) each(this.#message(i));
    return count;
  }

  /** struct mmsghdr: name, namelen, iov, iovlen, control, controllen, flags, then the message's length. */
  #point(i: number): void {
    const header = i * MMSGHDR;
    this.#headers.writeBigUInt64LE(addressOf(this.#names) + BigInt(i * NAME), header);
    this.#headers.writeBigUInt64LE(addressOf(this.#vectors) + BigInt(i * IOVEC), header + 16);
    this.#headers.writeBigUInt64LE(1n, header + 24);
    this.#headers.writeBigUInt64LE(addressOf(this.#controls) + BigInt(i * CONTROL), header + 32);
    this.#vectors.writeBigUInt64LE(addressOf(this.#data) + BigInt(i * this.#room), i * IOVEC);
    this.#vectors.writeBigUInt64LE(BigInt(this.#room), i * IOVEC + 8);
  }

  #message(i: number): Message {
    const header = i * MMSGHDR;
    const length = this.#headers.readUInt32LE(header + 56);
    const nameLength = this.#headers.readUInt32LE(header + 8);
    const controlLength = this.#headers.readUInt32LE(header + 40);
    // struct cmsghdr is 16 bytes: length, level, type.
    const control = i * CONTROL + Math.min(16, controlLength);
    return {
      data: this.#data.subarray(i * this.#room, i * this.#room + length),
      name: this.#names.subarray(i * NAME, i * NAME + nameLength),
      control: this.#controls.subarray(control, i * CONTROL + controlLength),
    };
  }
}
