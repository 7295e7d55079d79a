/** The slices of one Service as the API server told them last, whatever could not be read of them left out. */
import { readSlice, type Slice, sliceName } from './slice.ts';

export class SliceStore {
  #slices: Map<string, Slice> | undefined;
  #malformed = 0;

  /** Undefined before the first list. */
  get all(): Iterable<Slice> | undefined {
    return this.#slices?.values();
  }

  /** The API server said that there are none. */
  get isEmpty(): boolean {
    return this.#slices?.size === 0;
  }

  /** Slices and endpoints that could not be read, so far. */
  get malformed(): number {
    return this.#malformed;
  }

  /** A list: what is not in it is no more. */
  replace(objects: readonly unknown[]): void {
    const old = this.#slices;
    this.#slices = new Map();
    for (const object of objects) this.#put(object, old);
  }

  put(object: unknown): void {
    this.#put(object, this.#slices);
  }

  delete(object: unknown): void {
    this.#slices?.delete(sliceName(object) ?? '');
  }

  /** One that cannot be read leaves in use what was known of it: it exists, and that is all we can tell. */
  #put(object: unknown, old: ReadonlyMap<string, Slice> | undefined): void {
    const read = readSlice(object);
    this.#malformed += read ? read.malformed : 1;
    const slice = read ?? old?.get(sliceName(object) ?? '');
    if (slice) this.#slices?.set(slice.name, slice);
  }
}
