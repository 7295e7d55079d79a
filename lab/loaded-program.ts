/** A program that is loaded already, and its maps, found by id as bpftool(8) finds them. */
import koffi from 'koffi';
import { BpfMap } from '../agent/datapath/tc/bpf.ts';
import { check } from '../agent/ffi/errno.ts';

/** Offsets in struct bpf_prog_info and struct bpf_map_info of linux/bpf.h. */
const PROGRAM_INFO = { size: 64, nr_map_ids: 52, map_ids: 56 } as const;
const MAP_INFO = { size: 80, key_size: 8, value_size: 12, name: 24 } as const;
const NAME = 16;

const library = koffi.load('libbpf.so.1');
const calls = {
  program: library.func('int bpf_prog_get_fd_by_id(uint32_t id)'),
  map: library.func('int bpf_map_get_fd_by_id(uint32_t id)'),
  nextKey: library.func('int bpf_map_get_next_key(int fd, const void *key, _Out_ void *next)'),
  info: library.func('int bpf_obj_get_info_by_fd(int fd, void *info, _Inout_ uint32_t *length)'),
};

/** A descriptor of the program with this id. */
export function programById(id: number): number {
  return check('bpf_prog_get_fd_by_id', calls.program(id));
}

/** The maps that a program uses, by name. */
export function mapsOf(programFd: number): Map<string, BpfMap> {
  const ids = Buffer.alloc(4 * 64);
  const info = Buffer.alloc(PROGRAM_INFO.size);
  info.writeUInt32LE(ids.length / 4, PROGRAM_INFO.nr_map_ids);
  info.writeBigUInt64LE(koffi.address(ids), PROGRAM_INFO.map_ids);
  read(programFd, info);
  const count = info.readUInt32LE(PROGRAM_INFO.nr_map_ids);
  const maps = Array.from({ length: count }, (_, index) => mapById(ids.readUInt32LE(4 * index)));
  return new Map(maps.map((map) => [map.name, map]));
}

/** The map with this id. */
export function mapById(id: number): BpfMap {
  const fd = check('bpf_map_get_fd_by_id', calls.map(id));
  const info = Buffer.alloc(MAP_INFO.size);
  read(fd, info);
  const name = info.toString('latin1', MAP_INFO.name, MAP_INFO.name + NAME).replace(/\0.*/s, '');
  const [keySize, valueSize] = [info.readUInt32LE(MAP_INFO.key_size), info.readUInt32LE(MAP_INFO.value_size)];
  return new BpfMap({ name, fd, keySize, valueSize });
}

/** The keys that a map has, in no order. */
export function keysOf({ fd, keySize }: BpfMap): Uint8Array[] {
  const keys: Uint8Array[] = [];
  for (let last: Uint8Array | null = null; ; ) {
    const key = new Uint8Array(keySize);
    if (calls.nextKey(fd, last, key) !== 0) return keys;
    keys.push(key);
    last = key;
  }
}

function read(fd: number, info: Buffer): void {
  check('bpf_obj_get_info_by_fd', calls.info(fd, info, [info.length]));
}
