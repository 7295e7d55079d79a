/**
 * libbpf and the bpf(2) wrappers that it brings (bpf/libbpf.h, bpf/bpf.h of libbpf 1.x), with each argument's C type
 * beside it. Functions return libbpf's int: 0 or a descriptor, or -errno; `check` of errno.ts turns those into errors.
 */
import { readFileSync } from 'node:fs';
import koffi from 'koffi';
import { check, SystemError } from './errno.ts';
import { libc } from './libc.ts';
import { Memory } from './mmsg.ts';

/** An opaque pointer of libbpf's. */
export type Pointer = bigint;

/** struct bpf_tc_hook without its size. */
export interface TcHook {
  readonly ifindex: number;
  /** enum bpf_tc_attach_point */
  readonly attach_point: number;
}

/** struct bpf_tc_opts without its size; the kernel's choices are written back by attach. */
export interface TcOptions {
  prog_fd: number;
  flags: number;
  prog_id: number;
  handle: number;
  priority: number;
}

/** uapi/linux/bpf.h, bpf/libbpf.h */
export const BPF = {
  MAP_TYPE_ARRAY: 2,
  ANY: 0,
  F_INNER_MAP: 1 << 12,
  TC_INGRESS: 1,
  TC_EGRESS: 2,
  TC_F_REPLACE: 1,
} as const;

const KERNEL_LOG_BYTES = 1 << 16;
/** struct bpf_prog_info and bpf_map_info of linux/bpf.h: as much of them as is read here. */
const PROG_INFO = { size: 80, id: 4, nrMapIds: 52, mapIds: 56 } as const;
const MAP_INFO = { size: 80, valueSize: 12, maxEntries: 16, name: 24, nameSize: 16 } as const;
/** A program has at most 64 maps (MAX_USED_MAPS). */
const MOST_MAPS = 64;
/**
 * BPF_LOG_STATS of linux/bpf_verifier.h: what the verifier finds, and its figures, without each instruction that it looks
 * at; those fill any log, and before 6.4 what is full loses its end, which is the reason.
 */
const KERNEL_LOG_LEVEL = 4;

let table: ReturnType<typeof bind> | undefined;
const libbpf = () => {
  table ??= bind();
  return table;
};

function bind() {
  const library = koffi.load('libbpf.so.1');
  const mapOptions = koffi.struct('bpf_map_create_opts', {
    sz: 'size_t',
    btf_fd: 'uint32_t',
    btf_key_type_id: 'uint32_t',
    btf_value_type_id: 'uint32_t',
    btf_vmlinux_value_type_id: 'uint32_t',
    inner_map_fd: 'uint32_t',
    map_flags: 'uint32_t',
    map_extra: 'uint64_t',
    numa_node: 'uint32_t',
    map_ifindex: 'uint32_t',
  });
  const hook = koffi.struct('bpf_tc_hook', {
    sz: 'size_t',
    ifindex: 'int',
    attach_point: 'int',
    parent: 'uint32_t',
  });
  const options = koffi.struct('bpf_tc_opts', {
    sz: 'size_t',
    prog_fd: 'int',
    flags: 'uint32_t',
    prog_id: 'uint32_t',
    handle: 'uint32_t',
    priority: 'uint32_t',
  });
  const testRun = koffi.struct('bpf_test_run_opts', {
    sz: 'size_t',
    data_in: 'const void *',
    data_out: 'void *',
    data_size_in: 'uint32_t',
    data_size_out: 'uint32_t',
    ctx_in: 'const void *',
    ctx_out: 'void *',
    ctx_size_in: 'uint32_t',
    ctx_size_out: 'uint32_t',
    retval: 'uint32_t',
    repeat: 'int',
    duration: 'uint32_t',
    flags: 'uint32_t',
    cpu: 'uint32_t',
    batch_size: 'uint32_t',
  });
  const log = koffi.alloc('char', KERNEL_LOG_BYTES);
  // biome-ignore format: one call a line reads as the table that it is
  return {
    log,
    sizes: {
      mapOptions: koffi.sizeof(mapOptions),
      hook: koffi.sizeof(hook),
      options: koffi.sizeof(options),
      testRun: koffi.sizeof(testRun),
    },
    setPrint: library.func('void *libbpf_set_print(void *print)'),
    possibleCpus: library.func('int libbpf_num_possible_cpus()'),
    objectOpenFile: library.func('void *bpf_object__open_file(const char *path, const void *opts)'),
    objectLoad: library.func('int bpf_object__load(void *object)'),
    objectClose: library.func('void bpf_object__close(void *object)'),
    findProgram: library.func('void *bpf_object__find_program_by_name(void *object, const char *name)'),
    programFd: library.func('int bpf_program__fd(void *program)'),
    nextProgram: library.func('void *bpf_object__next_program(void *object, void *program)'),
    setLogBuffer: library.func('int bpf_program__set_log_buf(void *program, void *buffer, size_t size)'),
    setLogLevel: library.func('int bpf_program__set_log_level(void *program, uint32_t level)'),
    objectInfo: library.func('int bpf_obj_get_info_by_fd(int fd, _Out_ void *info, _Inout_ uint32_t *length)'),
    nextMap: library.func('void *bpf_object__next_map(void *object, void *map)'),
    mapName: library.func('const char *bpf_map__name(void *map)'),
    mapFd: library.func('int bpf_map__fd(void *map)'),
    mapKeySize: library.func('uint32_t bpf_map__key_size(void *map)'),
    mapValueSize: library.func('uint32_t bpf_map__value_size(void *map)'),
    mapSetMaxEntries: library.func('int bpf_map__set_max_entries(void *map, uint32_t max_entries)'),
    mapInitialValue: library.func('void *bpf_map__initial_value(void *map, _Out_ size_t *size)'),
    mapCreate: library.func('int bpf_map_create(int type, const char *name, uint32_t key_size, uint32_t value_size, uint32_t max_entries, const bpf_map_create_opts *opts)'),
    mapReuseFd: library.func('int bpf_map__reuse_fd(void *map, int fd)'),
    progFdById: library.func('int bpf_prog_get_fd_by_id(uint32_t id)'),
    mapFdById: library.func('int bpf_map_get_fd_by_id(uint32_t id)'),
    progBindMap: library.func('int bpf_prog_bind_map(int prog_fd, int map_fd, const void *opts)'),
    progTestRun: library.func('int bpf_prog_test_run_opts(int prog_fd, _Inout_ bpf_test_run_opts *opts)'),
    mapNextKey: library.func('int bpf_map_get_next_key(int fd, const void *key, _Out_ void *next_key)'),
    mapUpdate: library.func('int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)'),
    mapLookup: library.func('int bpf_map_lookup_elem(int fd, const void *key, _Out_ void *value)'),
    mapDelete: library.func('int bpf_map_delete_elem(int fd, const void *key)'),
    mapUpdateBatch: library.func('int bpf_map_update_batch(int fd, const void *keys, const void *values, _Inout_ uint32_t *count, const void *opts)'),
    mapLookupBatch: library.func('int bpf_map_lookup_batch(int fd, const void *in, _Out_ void *out, _Out_ void *keys, _Out_ void *values, _Inout_ uint32_t *count, const void *opts)'),
    tcHookCreate: library.func('int bpf_tc_hook_create(_Inout_ bpf_tc_hook *hook)'),
    tcAttach: library.func('int bpf_tc_attach(const bpf_tc_hook *hook, _Inout_ bpf_tc_opts *opts)'),
    tcDetach: library.func('int bpf_tc_detach(const bpf_tc_hook *hook, const bpf_tc_opts *opts)'),
  };
}

/** Number of CPUs that the kernel keeps per-CPU values for: so many follow each other in a per-CPU map. */
export function possibleCpus(): number {
  return libbpf().possibleCpus();
}

/** How many ids those CPUs have, which may have gaps: what counts by bpf_get_smp_processor_id needs so much room. */
export function cpuIds(possible: string = readFileSync('/sys/devices/system/cpu/possible', 'utf8')): number {
  return 1 + Math.max(...possible.split(/[-,]/).map(Number));
}

/** Opens an object file without loading it; throws SystemError. libbpf's own messages are switched off. */
export function objectOpen(path: string): Pointer {
  const { setPrint, objectOpenFile, log } = libbpf();
  setPrint(null);
  koffi.encode(log, 'char', 0);
  const object = objectOpenFile(path, null);
  if (!object) throw new SystemError(`open of ${path}`, koffi.errno());
  keepLog(object);
  return koffi.address(object);
}

/** The programs' log alone: an object's would take what is said of its BTF, too. */
function keepLog(object: unknown): void {
  const { nextProgram, setLogBuffer, setLogLevel, log } = libbpf();
  for (let program = nextProgram(object, null); program; program = nextProgram(object, program)) {
    setLogBuffer(program, log, KERNEL_LOG_BYTES);
    setLogLevel(program, KERNEL_LOG_LEVEL);
  }
}

/** Loads an opened object's maps and programs; -errno on failure, with the verifier's words in `kernelLog()`. */
export function objectLoad(object: Pointer): number {
  return libbpf().objectLoad(object);
}

/** What the verifier said at the last load, its figures too; "" if nothing. */
export function kernelLog(): string {
  return koffi.decode(libbpf().log, 'char', -1) as unknown as string;
}

/** Frees an object; its program lives on where it is attached. */
export function objectClose(object: Pointer): void {
  libbpf().objectClose(object);
}

/** Descriptor of the named program of a loaded object, undefined if there is none. */
export function programFd(object: Pointer, name: string): number | undefined {
  const program = libbpf().findProgram(object, name);
  return program ? libbpf().programFd(program) : undefined;
}

/** The kernel's id of a loaded program. Throws SystemError. */
export function programId(fd: number): number {
  return new DataView(infoOf(fd, new Memory(PROG_INFO.size))).getUint32(PROG_INFO.id, true);
}

/** The kernel's ids of the maps that a program uses or is bound to. Throws SystemError. */
export function programMapIds(fd: number): readonly number[] {
  const ids = new Memory(MOST_MAPS * 4);
  const info = new Memory(PROG_INFO.size);
  info.u32[PROG_INFO.nrMapIds / 4] = MOST_MAPS;
  info.point(PROG_INFO.mapIds, ids.address(0));
  const count = new DataView(infoOf(fd, info)).getUint32(PROG_INFO.nrMapIds, true);
  return [...ids.u32.subarray(0, Math.min(count, MOST_MAPS))];
}

function infoOf(fd: number, info: Memory): ArrayBuffer {
  check('bpf_obj_get_info_by_fd', libbpf().objectInfo(fd, info.bytes, [info.bytes.length]));
  return info.bytes.buffer as ArrayBuffer;
}

/** Descriptor of a loaded program by the kernel's id; wants CAP_SYS_ADMIN. */
export function programFdById(id: number): number {
  return libbpf().progFdById(id);
}

/** Descriptor of a map by the kernel's id; wants CAP_SYS_ADMIN. */
export function mapFdById(id: number): number {
  return libbpf().mapFdById(id);
}

/** A map as it was created. */
export interface MapInfo {
  /** As bpf(2) keeps it: at most 15 bytes. */
  readonly name: string;
  readonly valueSize: number;
  readonly maxEntries: number;
}

/** Throws SystemError. */
export function mapInfo(fd: number): MapInfo {
  const bytes = Buffer.from(infoOf(fd, new Memory(MAP_INFO.size)));
  const name = bytes.subarray(MAP_INFO.name, MAP_INFO.name + MAP_INFO.nameSize).toString('latin1');
  const word = (at: number) => bytes.readUInt32LE(at);
  return {
    name: name.slice(0, name.indexOf('\0')),
    valueSize: word(MAP_INFO.valueSize),
    maxEntries: word(MAP_INFO.maxEntries),
  };
}

/** Keeps a map for as long as the program is there, though it does not use it. */
export function programBindMap(program: number, map: number): number {
  return libbpf().progBindMap(program, map, null);
}

/** struct bpf_test_run_opts of bpf/bpf.h, without its size: what goes in. */
export interface TestRunInput {
  readonly data_in: Uint8Array;
  readonly data_out?: Uint8Array;
  readonly data_size_out?: number;
  readonly ctx_in?: Uint8Array;
  readonly ctx_size_in?: number;
  readonly repeat?: number;
  readonly flags?: number;
}

/** What comes out: the program's answer, the mean time of a run in nanoseconds, the bytes of `data_out`. */
export interface TestRunOutput {
  readonly result: number;
  readonly retval: number;
  readonly duration: number;
  readonly data_size_out: number;
}

/** Runs a program on a packet that nobody sends (BPF_PROG_TEST_RUN); `result` is 0 or -errno. */
export function programRun(fd: number, input: TestRunInput): TestRunOutput {
  const { progTestRun, sizes } = libbpf();
  const inout = {
    sz: sizes.testRun,
    data_size_in: input.data_in.length,
    retval: 0,
    duration: 0,
    data_size_out: 0,
    ...input,
  };
  const result = progTestRun(fd, inout);
  return { result, retval: inout.retval, duration: inout.duration, data_size_out: inout.data_size_out };
}

/** A map of an opened object. */
export interface ObjectMap {
  readonly name: string;
  readonly pointer: Pointer;
  readonly keySize: number;
  readonly valueSize: number;
}

/** The maps of an opened object; global variables are maps too, whose names end in .bss and .rodata. */
export function objectMaps(object: Pointer): ObjectMap[] {
  const { nextMap, mapName, mapKeySize, mapValueSize } = libbpf();
  const maps: ObjectMap[] = [];
  for (let map = nextMap(object, null); map; map = nextMap(object, map)) {
    maps.push({
      name: mapName(map),
      pointer: koffi.address(map),
      keySize: mapKeySize(map),
      valueSize: mapValueSize(map),
    });
  }
  return maps;
}

/** Descriptor of a loaded object's map. */
export function mapFd(map: ObjectMap): number {
  return libbpf().mapFd(map.pointer);
}

/** Sets a map's size before the load. */
export function mapSetMaxEntries(map: ObjectMap, entries: number): number {
  return libbpf().mapSetMaxEntries(map.pointer, entries);
}

/** Takes a map that is there already, before the load; the descriptor stays the caller's. */
export function mapReuse(map: ObjectMap, fd: number): number {
  return libbpf().mapReuseFd(map.pointer, fd);
}

/** The bytes that a section of global variables starts with. */
export function mapInitialValue(map: ObjectMap): Uint8Array {
  const size = [0];
  const value = libbpf().mapInitialValue(map.pointer, size);
  return new Uint8Array(koffi.view(value, Number(size[0])));
}

/** Creates an array map with values of `valueSize` bytes that may be put into a map of maps whatever its size. */
export function innerArrayCreate(name: string, valueSize: number, entries: number): number {
  const { mapCreate, sizes } = libbpf();
  const options = { sz: sizes.mapOptions, map_flags: BPF.F_INNER_MAP };
  return mapCreate(BPF.MAP_TYPE_ARRAY, name, 4, valueSize, entries, options);
}

export function mapUpdate(fd: number, key: Uint8Array, value: Uint8Array): number {
  return libbpf().mapUpdate(fd, key, value, BPF.ANY);
}

/** Reads one value, of all CPUs in a row for a per-CPU map. */
export function mapLookup(fd: number, key: Uint8Array, value: Uint8Array): number {
  return libbpf().mapLookup(fd, key, value);
}

export function mapDelete(fd: number, key: Uint8Array): number {
  return libbpf().mapDelete(fd, key);
}

/** The key that follows `key` (null: the first) into `next`; -ENOENT behind the last one. */
export function mapNextKey(fd: number, key: Uint8Array | null, next: Uint8Array): number {
  return libbpf().mapNextKey(fd, key, next);
}

/** Closes a descriptor of a map. */
export function close(fd: number): void {
  libc.close(fd);
}

/** Writes `count` values by one system call. */
export function mapUpdateBatch(fd: number, keys: Uint8Array, values: Uint8Array, count: number): number {
  return libbpf().mapUpdateBatch(fd, keys, values, [count], null);
}

/** Reads up to `count` values that follow the key `after` (null: from the start); -ENOENT only says that the map ended. */
export function mapLookupBatch(
  fd: number,
  after: Uint8Array | null,
  keys: Uint8Array,
  values: Uint8Array,
  count: number,
): number {
  return libbpf().mapLookupBatch(fd, after, new Uint8Array(4), keys, values, [count], null);
}

/** Adds the clsact qdisc to the interface; -EEXIST if it is there. */
export function tcHookCreate(hook: TcHook): number {
  const { tcHookCreate, sizes } = libbpf();
  return tcHookCreate({ sz: sizes.hook, parent: 0, ...hook });
}

/** Attaches a program; handle and priority 0 leave the choice to the kernel, which is written into `options`. */
export function tcAttach(hook: TcHook, options: TcOptions): number {
  const { tcAttach, sizes } = libbpf();
  const inout = { sz: sizes.options, ...options };
  const result = tcAttach({ sz: sizes.hook, parent: 0, ...hook }, inout);
  if (result === 0) Object.assign(options, { handle: inout.handle, priority: inout.priority, prog_id: inout.prog_id });
  return result;
}

/** Removes the filter with this handle and priority. */
export function tcDetach(hook: TcHook, handle: number, priority: number): number {
  const { tcDetach, sizes } = libbpf();
  const options = { sz: sizes.options, prog_fd: 0, flags: 0, prog_id: 0, handle, priority };
  return tcDetach({ sz: sizes.hook, parent: 0, ...hook }, options);
}
