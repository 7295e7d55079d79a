/** A BPF map by its descriptor: bytes in, bytes out. */
import { constants } from 'node:os';
import { check } from '../../ffi/errno.ts';
import * as libbpf from '../../ffi/libbpf.ts';

const { ENOENT, E2BIG } = constants.errno;

export class BpfMap {
  readonly name: string;
  readonly fd: number;
  readonly keySize: number;
  readonly valueSize: number;

  constructor(name: string, fd: number, keySize: number, valueSize: number) {
    this.name = name;
    this.fd = fd;
    this.keySize = keySize;
    this.valueSize = valueSize;
  }

  /** Writes one value; throws SystemError, with E2BIG where the map is full. */
  put(key: Uint8Array, value: Uint8Array): void {
    const result = libbpf.mapUpdate(this.fd, key, value);
    check(`bpf_map_update_elem of ${this.name}`, result, result === -E2BIG ? 'the map is full' : '');
  }

  /** Reads into `value`, which has room for all CPUs of a per-CPU map; false if there is no such key. */
  get(key: Uint8Array, value: Uint8Array): boolean {
    const result = libbpf.mapLookup(this.fd, key, value);
    if (result === -ENOENT) return false;
    check(`bpf_map_lookup_elem of ${this.name}`, result);
    return true;
  }

  /** Removes a key; one that is not there is as good as removed. */
  remove(key: Uint8Array): void {
    const result = libbpf.mapDelete(this.fd, key);
    if (result !== -ENOENT) check(`bpf_map_delete_elem of ${this.name}`, result);
  }
}
