/** What we wrote into a map, kept beside it, so that a change writes only what differs. */
import { encodeU32 } from './abi.ts';
import type { BpfMap } from './bpf.ts';

/** The steps from what there is to what is wanted; nothing is written before. Both throw the first error, having tried all. */
export interface Steps {
  add(): void;
  remove(): void;
}

export class MapMirror {
  readonly #map: BpfMap;
  readonly #have = new Map<string, Uint8Array>();

  constructor(map: BpfMap) {
    this.#map = map;
  }

  /** Takes what is in the map, which another agent wrote, for our own. Throws SystemError. */
  adopt(): void {
    for (const [key, value] of this.#map.pairs()) this.#have.set(text(key), value);
  }

  has(key: Uint8Array): boolean {
    return this.#have.has(text(key));
  }

  *pairs(): Generator<readonly [key: Uint8Array, value: Uint8Array]> {
    for (const [id, value] of this.#have) yield [new Uint8Array(Buffer.from(id, 'latin1')), value];
  }

  /** The steps to exactly these entries; the last of a key wins. */
  diff(wanted: Iterable<readonly [key: Uint8Array, value: Uint8Array]>): Steps {
    const want = new Map<string, readonly [Uint8Array, Uint8Array]>();
    for (const entry of wanted) want.set(text(entry[0]), entry);
    return {
      add: () => each(want, ([id, [key, value]]) => this.#put(id, key, value)),
      remove: () => each(this.#have.keys(), (id) => !want.has(id) && this.#remove(id)),
    };
  }

  #put(id: string, key: Uint8Array, value: Uint8Array): void {
    const have = this.#have.get(id);
    if (have && Buffer.compare(have, value) === 0) return;
    this.#map.put(key, value);
    this.#have.set(id, value);
  }

  #remove(id: string): void {
    this.#map.remove(Buffer.from(id, 'latin1'));
    this.#have.delete(id);
  }
}

/** The same for an array that is one value of flags, a byte each: flags are added by one write and removed by another. */
export class FlagsMirror {
  readonly #map: BpfMap;
  #have: Uint8Array;

  constructor(map: BpfMap) {
    this.#map = map;
    this.#have = new Uint8Array(map.valueSize);
  }

  /** Takes what is in the map for our own. Throws SystemError. */
  adopt(): void {
    this.#map.get(encodeU32(0), this.#have);
  }

  diff(wanted: readonly (readonly [at: number, flag: number])[]): Steps {
    return {
      add: () => this.#put(withFlags(this.#have.slice(), wanted)),
      remove: () => this.#put(withFlags(new Uint8Array(this.#have.length), wanted)),
    };
  }

  #put(flags: Uint8Array): void {
    if (Buffer.compare(this.#have, flags) === 0) return;
    this.#map.put(encodeU32(0), flags);
    this.#have = flags;
  }
}

/** Touches but the bytes that it must: a loop over all 65536 at each pass would have V8 compile it for 5 MiB. */
function withFlags(bytes: Uint8Array, flags: readonly (readonly [at: number, flag: number])[]): Uint8Array {
  for (const [at, flag] of flags) bytes[at]! |= flag;
  return bytes;
}

/** One entry that is refused does not keep the others out. */
function each<T>(items: Iterable<T>, work: (item: T) => unknown): void {
  const errors: unknown[] = [];
  for (const item of items) {
    try {
      work(item);
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw errors[0];
}

const text = (key: Uint8Array) => Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('latin1');
