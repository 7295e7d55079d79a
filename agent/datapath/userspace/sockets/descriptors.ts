/**
 * The descriptors of one forwarder, in memory that outlives its thread: what a thread that died has left open, whoever
 * started it closes. An entry goes before its descriptor is closed, so none is closed a second time, when its number may
 * be somebody else's by then.
 */
import { constants } from 'node:os';
import { SystemError } from '../../../ffi/errno.ts';
import { libc } from '../../../ffi/libc.ts';
import { firstKeptBack } from '../../../kernel/descriptors.ts';

export class Descriptors {
  readonly memory: SharedArrayBuffer;
  /** The complement of a descriptor; 0, as in new memory, is none. */
  readonly #entries: Int32Array;
  readonly #firstKeptBack = firstKeptBack();
  #firstFree = 0;

  /** For at most so many; or those that another thread keeps in this memory. */
  constructor(of: number | SharedArrayBuffer) {
    this.memory = typeof of === 'number' ? new SharedArrayBuffer(of * 4) : of;
    this.#entries = new Int32Array(this.memory);
  }

  /** Keeps a descriptor, and returns it. */
  own(fd: number): number {
    const at = this.#entries.indexOf(0, this.#firstFree);
    this.#entries[at] = ~fd;
    this.#firstFree = at + 1;
    return fd;
  }

  /** Keeps one that can be done without. Throws SystemError where none but those for the rest of the agent are left. */
  ownSpare(fd: number): number {
    if (fd < this.#firstKeptBack) return this.own(fd);
    libc.close(fd);
    throw new SystemError('socket', constants.errno.EMFILE);
  }

  close(fd: number): void {
    const at = this.#entries.indexOf(~fd);
    this.#entries[at] = 0;
    this.#firstFree = Math.min(this.#firstFree, Math.max(0, at));
    libc.close(fd);
  }

  /** Closes all: the forwarder's last act, or its survivor's. */
  closeAll(): void {
    for (const [at, entry] of this.#entries.entries()) {
      if (entry === 0) continue;
      this.#entries[at] = 0;
      libc.close(~entry);
    }
    this.#firstFree = 0;
  }
}
