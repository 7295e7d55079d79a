/**
 * A BPF ring buffer as its one reader sees it (Documentation/bpf/ringbuf.rst): a page with what was read, one with what
 * was written, then the records, mapped twice in a row so that none is ever cut.
 */
import koffi from 'koffi';
import { SystemError } from './errno.ts';

/** linux/bpf.h: bits of a record's length; the length is followed by four bytes that are the kernel's. */
const BUSY = 0x8000_0000;
const DISCARDED = 0x4000_0000;
const HEADER = 8;
/** sys/mman.h */
const PROT = { READ: 1, WRITE: 2 } as const;
const MAP_SHARED = 1;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;

let calls: ReturnType<typeof bind> | undefined;

function bind() {
  const library = koffi.load('libc.so.6');
  return {
    mmap: library.func('void *mmap(void *at, size_t length, int protection, int flags, int fd, int64_t offset)'),
    munmap: library.func('int munmap(void *at, size_t length)'),
    pageSize: library.func('int getpagesize()'),
  };
}

interface Mapping {
  readonly pointer: unknown;
  readonly bytes: ArrayBuffer;
}

export class RingBuffer {
  readonly #size: number;
  readonly #consumer: Mapping;
  readonly #producer: Mapping;
  readonly #read: BigUint64Array;
  readonly #written: BigUint64Array;
  readonly #records: Uint8Array;
  readonly #lengths: Uint32Array;

  /** Of a map of so many bytes. Throws SystemError. */
  constructor(fd: number, size: number) {
    calls ??= bind();
    const page: number = calls.pageSize();
    this.#size = size;
    this.#consumer = map(fd, page, PROT.READ | PROT.WRITE, 0);
    try {
      this.#producer = map(fd, page + 2 * size, PROT.READ, page);
    } catch (error) {
      calls.munmap(this.#consumer.pointer, page);
      throw error;
    }
    this.#read = new BigUint64Array(this.#consumer.bytes, 0, 1);
    this.#written = new BigUint64Array(this.#producer.bytes, 0, 1);
    this.#records = new Uint8Array(this.#producer.bytes, page);
    this.#lengths = new Uint32Array(this.#producer.bytes, page);
  }

  /** Gives up to `most` records to `take`, each only for the time of the call; how many there were. */
  drain(most: number, take: (record: Uint8Array) => void): number {
    let count = 0;
    for (; count < most; count++) {
      const position = this.#read[0]!;
      if (position >= Atomics.load(this.#written, 0)) break;
      const at = Number(position % BigInt(this.#size));
      const length = Atomics.load(this.#lengths, at / 4);
      // Reserved and not yet filled: whoever fills it will say so.
      if (length & BUSY) break;
      const bytes = length & (DISCARDED - 1);
      try {
        if (!(length & DISCARDED)) take(this.#records.subarray(at + HEADER, at + HEADER + bytes));
      } finally {
        Atomics.store(this.#read, 0, position + BigInt(HEADER + Math.ceil(bytes / 8) * 8));
      }
    }
    return count;
  }

  /** Nothing may be drained afterwards. */
  close(): void {
    calls!.munmap(this.#consumer.pointer, this.#consumer.bytes.byteLength);
    calls!.munmap(this.#producer.pointer, this.#producer.bytes.byteLength);
  }
}

function map(fd: number, length: number, protection: number, offset: number): Mapping {
  const pointer: unknown = calls!.mmap(null, length, protection, MAP_SHARED, fd, offset);
  if (koffi.address(pointer as object) === MAP_FAILED) throw new SystemError('mmap of a ring buffer', koffi.errno());
  return { pointer, bytes: koffi.view(pointer, length) };
}
