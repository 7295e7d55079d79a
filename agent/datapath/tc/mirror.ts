/** What we wrote into a map, kept beside it, so that a change writes only what differs. */
import type { BpfMap } from './map.ts';

export class MapMirror {
  readonly #map: BpfMap;
  readonly #have = new Map<string, Uint8Array>();

  constructor(map: BpfMap) {
    this.#map = map;
  }

  /** The steps from what the map holds to exactly these entries (the last of a key wins); nothing is written yet. */
  diff(wanted: Iterable<readonly [key: Uint8Array, value: Uint8Array]>): { add(): void; remove(): void } {
    const want = new Map<string, readonly [Uint8Array, Uint8Array]>();
    for (const entry of wanted) want.set(text(entry[0]), entry);
    return { add: () => this.#add(want), remove: () => this.#remove(want) };
  }

  #add(want: ReadonlyMap<string, readonly [Uint8Array, Uint8Array]>): void {
    for (const [id, [key, value]] of want) {
      const have = this.#have.get(id);
      if (have && Buffer.compare(have, value) === 0) continue;
      this.#map.put(key, value);
      this.#have.set(id, value);
    }
  }

  #remove(want: ReadonlyMap<string, unknown>): void {
    for (const id of this.#have.keys()) {
      if (want.has(id)) continue;
      this.#map.remove(Buffer.from(id, 'latin1'));
      this.#have.delete(id);
    }
  }
}

const text = (key: Uint8Array) => Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('latin1');
