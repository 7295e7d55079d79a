/**
 * A kernel for the BPF calls of the agent: maps with contents, a program, tc hooks with filters, descriptors. It refuses
 * what the kernel refuses, with the same errno, and throws where the kernel would read memory that is not there.
 */
import { constants } from 'node:os';
import { ABI, CONSTANTS, LAYOUT, OUT_PROGRAM, PROGRAM, RENEW_PROGRAM } from '../../agent/datapath/tc/abi.ts';
import type { Bpf } from '../../agent/datapath/tc/bpf.ts';
import { SystemError } from '../../agent/ffi/errno.ts';
import {
  BPF,
  type MapInfo,
  type ObjectMap,
  type TcHook,
  type TcOptions,
  type TestRunOutput,
} from '../../agent/ffi/libbpf.ts';
import type { Filter, Side } from '../../agent/netlink/filter.ts';

const { E2BIG, EBADF, EEXIST, EINVAL, ENODEV, ENOENT } = constants.errno;

/** Of the last map that was made. */
let lastId = 0;

type Kind = 'array' | 'hash' | 'percpu_hash' | 'array_of_maps' | 'ringbuf';

export class FakeMap {
  readonly kind: Kind;
  readonly id = ++lastId;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  maxEntries: number;
  /** By key in hex: bytes, or of a map of maps the map. */
  readonly entries = new Map<string, Uint8Array | FakeMap>();

  constructor(kind: Kind, name: string, keySize: number, valueSize: number, maxEntries: number) {
    this.kind = kind;
    this.name = name;
    this.keySize = keySize;
    this.valueSize = valueSize;
    this.maxEntries = maxEntries;
  }

  /** The value as bytes; an array has every one of its entries. */
  bytes(key: Uint8Array): Uint8Array | undefined {
    const value = this.entries.get(hex(key));
    if (value instanceof FakeMap) throw new Error(`${this.name} holds maps`);
    return (
      value ?? (this.kind === 'array' && indexOf(key) < this.maxEntries ? new Uint8Array(this.valueSize) : undefined)
    );
  }

  inner(key: Uint8Array): FakeMap | undefined {
    const value = this.entries.get(hex(key));
    return value instanceof FakeMap ? value : undefined;
  }
}

interface FakeProgram {
  readonly id: number;
  readonly name: string;
  /** Those that it uses, and is bound to. */
  readonly maps: FakeMap[];
}

type Call = { [K in keyof Bpf]: Bpf[K] extends (...args: never[]) => unknown ? K : never }[keyof Bpf];

export class FakeBpf implements Bpf {
  /** CPUs that per-CPU values are kept for, and their ids, which have a gap. */
  readonly cpus = 2;
  readonly ids = 6;
  /** Called after every change that a program could see. */
  onChange: () => void = () => {};
  /** Calls that fail with this errno, as often as told. */
  readonly #failing = new Map<Call, { readonly errno: number; times: number; after: number }>();
  readonly #fds = new Map<number, FakeMap | FakeProgram>();
  readonly #objects = new Map<
    bigint,
    { readonly maps: FakeMap[]; programs?: ReadonlyMap<string, number>; fds?: readonly number[] }
  >();
  /** By id, for as long as the kernel runs: nobody here looks for what is gone. */
  readonly #programs = new Map<number, FakeProgram>();
  /** How often the lease was renewed. */
  renewals = 0;
  /** Ingress filters by interface that has clsact; what is not named does not exist. */
  readonly #hooks = new Map<number, Filter[] | undefined>();
  #next = 3;

  constructor(interfaces: readonly number[] = [2, 3]) {
    for (const index of interfaces) this.#hooks.set(index, undefined);
  }

  // What a test does and sees.

  /** The next calls of this kind are refused; so many before them are not. */
  fail(call: Call, errno: number, times = Number.POSITIVE_INFINITY, after = 0): void {
    this.#failing.set(call, { errno, times, after });
  }

  heal(): void {
    this.#failing.clear();
  }

  /** What is open, by name. */
  get descriptors(): string[] {
    return [...this.#fds.values()].map((one) => one.name);
  }

  /** A map that a descriptor is open of. */
  map(name: string): FakeMap {
    return [...this.#fds.values()].find((one): one is FakeMap => one instanceof FakeMap && one.name === name)!;
  }

  readonly filters = (ifindex: number, side: Side = 'ingress'): readonly Filter[] =>
    side === 'ingress' ? [...(this.#hooks.get(ifindex) ?? [])] : [];

  /** A filter by other hands. */
  addFilter(ifindex: number, fields: Partial<Filter>): void {
    const filters = this.#hooks.get(ifindex) ?? [];
    const handle = filters.length + 1;
    filters.push({ kind: 'bpf', priority: 49152 - filters.length, protocol: 3, handle, chain: 0, ...fields });
    this.#hooks.set(ifindex, filters);
  }

  /** A program that an agent of another version has left; its id. */
  leftProgram({ abi }: { readonly abi: number }): number {
    const id = 1000 + this.#next++;
    this.#programs.set(id, { id, name: PROGRAM, maps: [rodataOf(abi)] });
    return id;
  }

  removeInterface(ifindex: number): void {
    this.#hooks.delete(ifindex);
  }

  // What the agent calls.

  possibleCpus(): number {
    return this.cpus;
  }

  cpuIds(): number {
    return this.ids;
  }

  objectOpen(path: string): bigint {
    if (this.#refused('objectOpen')) throw new SystemError(`open of ${path}`, -this.#refused('objectOpen')!);
    const pointer = BigInt(this.#next++);
    const { address_key, bind_key, bind, peer_key, stats, fragment_key, fragment, lease } = LAYOUT;
    const { MAX_ADDRESSES, MAX_BINDS, MAX_PEERS, MAX_TABLES, MAX_LISTENERS, MAX_FRAGMENTED, SAFETY_NET_BYTES } =
      CONSTANTS;
    const maps = [
      new FakeMap('hash', 'ADDRESSES', address_key.size, 4, MAX_ADDRESSES),
      new FakeMap('hash', 'BINDS', bind_key.size, bind.size, MAX_BINDS),
      new FakeMap('hash', 'PEERS', peer_key.size, 16, MAX_PEERS),
      new FakeMap('array_of_maps', 'TABLES', 4, 4, MAX_TABLES),
      new FakeMap('percpu_hash', 'STATS', 4, stats.size, MAX_LISTENERS),
      new FakeMap('hash', 'FRAGMENTS', fragment_key.size, fragment.size, MAX_FRAGMENTED),
      new FakeMap('ringbuf', 'SAFETY_NET', 0, 0, SAFETY_NET_BYTES),
      new FakeMap('array', 'udp_fano.bss', 4, 65536, 1),
      new FakeMap('array', '.data.lease', 4, lease.size, 1),
      new FakeMap('hash', 'LISTENERS', 4, CONSTANTS.LISTENER_NOTE_BYTES, MAX_LISTENERS),
      rodataOf(ABI),
    ];
    this.#objects.set(pointer, { maps });
    return pointer;
  }

  objectMaps(object: bigint): ObjectMap[] {
    return this.#objects.get(object)!.maps.map((map, at) => {
      return { name: map.name, pointer: object * 100n + BigInt(at), keySize: map.keySize, valueSize: map.valueSize };
    });
  }

  mapSetMaxEntries(map: ObjectMap, entries: number): number {
    this.#mapOf(map).maxEntries = entries;
    return 0;
  }

  mapInitialValue(_: ObjectMap): Uint8Array {
    return new Uint8Array(new Uint32Array([ABI]).buffer);
  }

  mapReuse(map: ObjectMap, fd: number): number {
    const refused = this.#refused('mapReuse');
    if (refused !== undefined) return refused;
    const left = this.#fds.get(fd);
    if (!(left instanceof FakeMap)) return -EBADF;
    const { maps } = this.#objects.get(map.pointer / 100n)!;
    const own = this.#mapOf(map);
    if (left.kind !== own.kind || left.maxEntries !== own.maxEntries) return -EINVAL;
    maps[maps.indexOf(own)] = left;
    return 0;
  }

  objectLoad(object: bigint): number {
    const refused = this.#refused('objectLoad');
    if (refused !== undefined) return refused;
    const opened = this.#objects.get(object)!;
    const fds = opened.maps.map((map) => this.#open(map));
    const unused = ['LISTENERS'];
    const program = (name: string) => {
      const maps = opened.maps.filter((map) => !unused.includes(map.name));
      const one = { id: 1000 + this.#next, name, maps };
      this.#programs.set(one.id, one);
      return [name, this.#open(one)] as const;
    };
    opened.programs = new Map([PROGRAM, OUT_PROGRAM, RENEW_PROGRAM].map(program));
    opened.fds = [...fds, ...opened.programs.values()];
    return 0;
  }

  kernelLog(): string {
    return '';
  }

  objectClose(object: bigint): void {
    for (const fd of this.#objects.get(object)!.fds ?? []) this.#fds.delete(fd);
    this.#objects.delete(object);
  }

  programFd(object: bigint, name: string): number | undefined {
    return this.#objects.get(object)!.programs?.get(name);
  }

  programId(fd: number): number {
    return (this.#fds.get(fd) as FakeProgram).id;
  }

  programFdById(id: number): number {
    const refused = this.#refused('programFdById');
    if (refused !== undefined) return refused;
    const program = this.#programs.get(id);
    return program ? this.#open(program) : -ENOENT;
  }

  programMapIds(fd: number): readonly number[] {
    return (this.#fds.get(fd) as FakeProgram).maps.map(({ id }) => id);
  }

  programBindMap(program: number, map: number): number {
    (this.#fds.get(program) as FakeProgram).maps.push(this.#fds.get(map) as FakeMap);
    return 0;
  }

  programRun(fd: number): TestRunOutput {
    const ran = { retval: 0, duration: 0, data_size_out: 0 };
    if ((this.#fds.get(fd) as FakeProgram).name !== RENEW_PROGRAM) return { result: -EINVAL, ...ran };
    this.renewals++;
    return { result: 0, ...ran };
  }

  mapFdById(id: number): number {
    const maps = [...this.#programs.values()].flatMap((one) => one.maps);
    const inner = maps.flatMap(({ entries }) => [...entries.values()].filter((one) => one instanceof FakeMap));
    const map = [...maps, ...inner].find((one) => one.id === id);
    return map ? this.#open(map) : -ENOENT;
  }

  mapInfo(fd: number): MapInfo {
    const { name, valueSize, maxEntries } = this.#fds.get(fd) as FakeMap;
    return { name, valueSize, maxEntries };
  }

  mapNextKey(fd: number, key: Uint8Array | null, next: Uint8Array): number {
    const map = this.#fds.get(fd);
    if (!(map instanceof FakeMap)) return -EBADF;
    const keys = [...map.entries.keys()];
    const following = keys[key === null ? 0 : keys.indexOf(hex(key)) + 1];
    if (following === undefined) return -ENOENT;
    next.set(Buffer.from(following, 'hex'));
    return 0;
  }

  mapFd(map: ObjectMap): number {
    const wanted = this.#mapOf(map);
    const { fds = [] } = this.#objects.get(map.pointer / 100n)!;
    return fds.find((fd) => this.#fds.get(fd) === wanted) ?? [...this.#fds].find(([, one]) => one === wanted)![0];
  }

  innerArrayCreate(name: string, valueSize: number, entries: number): number {
    return this.#refused('innerArrayCreate') ?? this.#open(new FakeMap('array', name, 4, valueSize, entries));
  }

  mapUpdate(fd: number, key: Uint8Array, value: Uint8Array): number {
    const refused = this.#refused('mapUpdate');
    if (refused !== undefined) return refused;
    const map = this.#fds.get(fd);
    if (!(map instanceof FakeMap)) return -EBADF;
    const result = this.#write(map, key, value);
    if (result === 0) this.onChange();
    return result;
  }

  mapUpdateBatch(fd: number, keys: Uint8Array, values: Uint8Array, count: number): number {
    const refused = this.#refused('mapUpdateBatch');
    if (refused !== undefined) return refused;
    const map = this.#fds.get(fd);
    if (!(map instanceof FakeMap)) return -EBADF;
    for (let at = 0; at < count; at++) {
      const [key, value] = [slice(keys, at, map.keySize), slice(values, at, map.valueSize)];
      const result = this.#write(map, key, value);
      if (result < 0) return result;
    }
    this.onChange();
    return 0;
  }

  mapLookup(fd: number, key: Uint8Array, value: Uint8Array): number {
    const map = this.#fds.get(fd);
    if (!(map instanceof FakeMap)) return -EBADF;
    const inner = map.kind === 'array_of_maps' ? map.inner(key) : undefined;
    if (map.kind === 'array_of_maps' && !inner) return -ENOENT;
    const found = inner ? new Uint8Array(new Uint32Array([inner.id]).buffer) : map.bytes(key);
    if (!found) return -ENOENT;
    fits(`value of ${map.name}`, value, found.length);
    value.set(found);
    return 0;
  }

  mapLookupBatch(fd: number, after: Uint8Array | null, keys: Uint8Array, values: Uint8Array, count: number): number {
    const refused = this.#refused('mapLookupBatch');
    if (refused !== undefined) return refused;
    const map = this.#fds.get(fd);
    if (!(map instanceof FakeMap)) return -EBADF;
    if (map.kind !== 'array') throw new Error('the agent asks for batches of arrays only');
    const first = after ? indexOf(after) + 1 : 0;
    for (let at = 0; at < count; at++) {
      const key = new Uint8Array(new Uint32Array([first + at]).buffer);
      const value = map.bytes(key);
      if (!value) return -ENOENT;
      keys.set(key, at * map.keySize);
      values.set(value, at * map.valueSize);
    }
    return 0;
  }

  mapDelete(fd: number, key: Uint8Array): number {
    const refused = this.#refused('mapDelete');
    if (refused !== undefined) return refused;
    const map = this.#fds.get(fd);
    if (!(map instanceof FakeMap)) return -EBADF;
    fits(`key of ${map.name}`, key, map.keySize);
    if (map.kind === 'array') return -EINVAL;
    if (!map.entries.delete(hex(key))) return -ENOENT;
    this.onChange();
    return 0;
  }

  close(fd: number): void {
    if (!this.#fds.delete(fd)) throw new Error(`close of descriptor ${fd}, which is not open`);
  }

  tcHookCreate({ ifindex }: TcHook): number {
    const refused = this.#refused('tcHookCreate');
    if (refused !== undefined) return refused;
    if (!this.#hooks.has(ifindex)) return -ENODEV;
    if (this.#hooks.get(ifindex)) return -EEXIST;
    this.#hooks.set(ifindex, []);
    return 0;
  }

  tcAttach({ ifindex }: TcHook, options: TcOptions): number {
    const refused = this.#refused('tcAttach');
    if (refused !== undefined) return refused;
    const program = this.#fds.get(options.prog_fd);
    if (!program || program instanceof FakeMap) return -EBADF;
    const filters = this.#hooks.get(ifindex);
    if (!filters) return this.#hooks.has(ifindex) ? -ENOENT : -ENODEV;
    const at = filters.findIndex(isAt(options));
    if (at >= 0 && options.flags !== BPF.TC_F_REPLACE) return -EEXIST;
    const { handle, priority } = at >= 0 ? filters[at]! : { handle: 1, priority: 49152 - filters.length };
    const filter = {
      kind: 'bpf',
      priority,
      protocol: 3,
      handle,
      chain: 0,
      bpfName: `${PROGRAM}:[${program.id}]`,
      bpfId: program.id,
    };
    if (at >= 0) filters[at] = filter;
    else filters.push(filter);
    this.onChange();
    return 0;
  }

  tcDetach({ ifindex }: TcHook, handle: number, priority: number): number {
    const refused = this.#refused('tcDetach');
    if (refused !== undefined) return refused;
    const filters = this.#hooks.get(ifindex);
    if (!filters) return this.#hooks.has(ifindex) ? -EINVAL : -ENODEV;
    const at = filters.findIndex(isAt({ handle, priority }));
    if (at < 0) return -ENOENT;
    filters.splice(at, 1);
    this.onChange();
    return 0;
  }

  #open(one: FakeMap | FakeProgram): number {
    this.#fds.set(this.#next, one);
    return this.#next++;
  }

  #mapOf({ pointer }: ObjectMap): FakeMap {
    return this.#objects.get(pointer / 100n)!.maps[Number(pointer % 100n)]!;
  }

  #refused(call: Call): number | undefined {
    const failing = this.#failing.get(call);
    if (!failing || failing.after-- > 0 || failing.times-- <= 0) return undefined;
    return -failing.errno;
  }

  #write(map: FakeMap, key: Uint8Array, value: Uint8Array): number {
    fits(`key of ${map.name}`, key, map.keySize);
    fits(`value of ${map.name}`, value, map.valueSize * (map.kind === 'percpu_hash' ? this.cpus : 1));
    const isArray = map.kind === 'array' || map.kind === 'array_of_maps';
    if (isArray && indexOf(key) >= map.maxEntries) return -E2BIG;
    if (!isArray && !map.entries.has(hex(key)) && map.entries.size >= map.maxEntries) return -E2BIG;
    if (map.kind !== 'array_of_maps') {
      map.entries.set(hex(key), value.slice());
      return 0;
    }
    const inner = this.#fds.get(indexOf(value));
    if (!inner) return -EBADF;
    if (!(inner instanceof FakeMap) || inner.kind !== 'array' || inner.valueSize !== LAYOUT.slot.size) return -EINVAL;
    map.entries.set(hex(key), inner);
    return 0;
  }
}

function rodataOf(abi: number): FakeMap {
  const rodata = new FakeMap('array', 'udp_fano.rodata', 4, 4, 1);
  rodata.entries.set(hex(new Uint8Array(4)), new Uint8Array(new Uint32Array([abi]).buffer));
  return rodata;
}

const hex = (key: Uint8Array) => Buffer.from(key).toString('hex');
const indexOf = (key: Uint8Array) => new DataView(key.buffer, key.byteOffset).getUint32(0, true);
const slice = (bytes: Uint8Array, at: number, size: number) => bytes.subarray(at * size, (at + 1) * size);
const isAt = (place: { handle: number; priority: number }) => (filter: Filter) =>
  filter.handle === place.handle && filter.priority === place.priority;

function fits(what: string, bytes: Uint8Array, size: number): void {
  if (bytes.length !== size) throw new Error(`${what} of ${bytes.length} bytes: the kernel reads ${size}`);
}
