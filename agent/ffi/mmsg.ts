/**
 * The calls of the userspace datapath's hot path, and memory that the kernel and typed arrays both see. Beside libc.ts,
 * whose wrapper costs an allocation a call: these take numbers and prepared pointers only.
 */
import koffi from 'koffi';

/** Where something is in this process, ready to be handed to a call. */
export type Address = bigint;

/** Bytes that stay where they are, as typed arrays and by address. They live as long as this object. */
export class Memory {
  readonly bytes: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly #start: bigint;
  readonly #low: number;
  readonly #high: number;

  /** `size` bytes of zeroes; a multiple of 8. */
  constructor(size: number) {
    const buffer = new ArrayBuffer(size);
    this.bytes = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.#start = size === 0 ? 0n : koffi.address(this.bytes);
    this.#low = Number(this.#start & 0xffff_ffffn);
    this.#high = Number(this.#start >> 32n);
  }

  /** The low and the high word of an address, without a BigInt. */
  low(offset: number): number {
    return (this.#low + offset) >>> 0;
  }

  high(offset: number): number {
    return this.#high + (this.#low + offset > 0xffff_ffff ? 1 : 0);
  }

  address(offset: number): Address {
    return this.#start + BigInt(offset);
  }

  /** Writes the address of `target` at `offset` as a C pointer of x64 and arm64. */
  point(offset: number, target: Address): void {
    new BigUint64Array(this.bytes.buffer, offset, 1)[0] = target;
  }
}

/** recvmmsg(2): messages received, or -errno. Returns with the first message and those that wait behind it. */
export function recvmmsg(fd: number, headers: Address, count: number, flags: number): number {
  calls ??= bind();
  const result = calls.recvmmsg(fd, headers, count, flags, null);
  return result < 0 ? -koffi.errno() : result;
}

/** sendmmsg(2): messages sent, which may be fewer than `count`, or -errno of the first. */
export function sendmmsg(fd: number, headers: Address, count: number, flags: number): number {
  calls ??= bind();
  const result = calls.sendmmsg(fd, headers, count, flags);
  return result < 0 ? -koffi.errno() : result;
}

/** linux/socket.h */
export const MSG_WAITFORONE = 0x10000;
export const MSG_DONTWAIT = 0x40;

let calls: ReturnType<typeof bind> | undefined;

function bind() {
  const library = koffi.load('libc.so.6');
  return {
    recvmmsg: library.func('int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout)') as (
      ...values: [number, Address, number, number, null]
    ) => number,
    sendmmsg: library.func('int sendmmsg(int fd, void *messages, unsigned int count, int flags)') as (
      ...values: [number, Address, number, number]
    ) => number,
  };
}
