/** What the kernel path asks of BPF: an interface, for which tests have a kernel of their own, and maps by it. */
import { constants } from 'node:os';
import { check } from '../../ffi/errno.ts';
import * as libbpf from '../../ffi/libbpf.ts';

const { ENOENT, E2BIG } = constants.errno;

/** The calls as ffi/libbpf.ts describes them: 0 or a descriptor, or -errno. */
export type Bpf = Omit<typeof libbpf, 'BPF'>;

export interface MapShape {
  readonly name: string;
  readonly fd: number;
  readonly keySize: number;
  readonly valueSize: number;
  /** What it has room for, where that was chosen by us. */
  readonly entries?: number | undefined;
}

/** A BPF map by its descriptor: bytes in, bytes out. */
export class BpfMap implements MapShape {
  readonly name: string;
  readonly fd: number;
  readonly keySize: number;
  readonly valueSize: number;
  readonly #full: string;
  readonly #bpf: Bpf;

  constructor({ name, fd, keySize, valueSize, entries }: MapShape, bpf: Bpf = libbpf) {
    this.name = name;
    this.fd = fd;
    this.keySize = keySize;
    this.valueSize = valueSize;
    this.#full = `the map is full${entries === undefined ? '' : `, it has room for ${entries} entries`}`;
    this.#bpf = bpf;
  }

  /** Writes one value; throws SystemError, with E2BIG where the map is full. */
  put(key: Uint8Array, value: Uint8Array): void {
    const result = this.#bpf.mapUpdate(this.fd, key, value);
    check(`bpf_map_update_elem of ${this.name}`, result, result === -E2BIG ? this.#full : '');
  }

  /** Reads into `value`, which has room for all CPUs of a per-CPU map; false if there is no such key. */
  get(key: Uint8Array, value: Uint8Array): boolean {
    const result = this.#bpf.mapLookup(this.fd, key, value);
    if (result === -ENOENT) return false;
    check(`bpf_map_lookup_elem of ${this.name}`, result);
    return true;
  }

  /** Its entries, of a map that has one value a key. Throws SystemError. */
  *pairs(): Generator<readonly [key: Uint8Array, value: Uint8Array]> {
    for (let key = this.#keyAfter(null); key; key = this.#keyAfter(key)) {
      const value = new Uint8Array(this.valueSize);
      if (this.get(key, value)) yield [key, value];
    }
  }

  #keyAfter(key: Uint8Array | null): Uint8Array | undefined {
    const next = new Uint8Array(this.keySize);
    const result = this.#bpf.mapNextKey(this.fd, key, next);
    if (result === -ENOENT) return undefined;
    check(`bpf_map_get_next_key of ${this.name}`, result);
    return next;
  }

  /** Removes a key; one that is not there is as good as removed. */
  remove(key: Uint8Array): void {
    const result = this.#bpf.mapDelete(this.fd, key);
    if (result !== -ENOENT) check(`bpf_map_delete_elem of ${this.name}`, result);
  }
}
