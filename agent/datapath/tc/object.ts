/** The BPF object: found, held against what the agent was built for, loaded. */
import { constants } from 'node:os';
import { sectionText } from '../../ffi/elf.ts';
import { check, SystemError } from '../../ffi/errno.ts';
import * as libbpf from '../../ffi/libbpf.ts';
import { isMemoryLimited, raiseMemlock } from '../../kernel/memlock.ts';
import { loadRefusal, mapRefusal, type ObjectFile, type Surroundings, surroundings } from '../../kernel/refusal.ts';
import { ABI, CONSTANTS, LAYOUT, OUT_PROGRAM, PROGRAM, RENEW_PROGRAM } from './abi.ts';
import type { Program } from './attachment.ts';
import { type Bpf, BpfMap } from './bpf.ts';
import type { LeftMap, Predecessor } from './predecessor.ts';
import { chargedBytes, firstThatFits, ROOM_FOR_TABLES, SIZES, type Sizes } from './sizes.ts';

const { EPERM, ENOENT } = constants.errno;

/** __LIBBPF_ERRNO__START of bpf/libbpf.h. */
const LIBBPF_ERRNO = 4000;

/** Key and value sizes that the agent's encoders assume. */
const LAYOUTS: Readonly<Record<string, readonly [key: number, value: number]>> = {
  ADDRESSES: [LAYOUT.address_key.size, 4],
  BINDS: [LAYOUT.bind_key.size, LAYOUT.bind.size],
  PEERS: [LAYOUT.peer_key.size, 16],
  TABLES: [4, 4],
  STATS: [4, LAYOUT.stats.size],
  FRAGMENTS: [LAYOUT.fragment_key.size, LAYOUT.fragment.size],
  SAFETY_NET: [0, 0],
  LISTENERS: [4, CONSTANTS.LISTENER_NOTE_BYTES],
  '.bss': [4, 65536],
  '.data.lease': [4, LAYOUT.lease.size],
};
/** What a program that comes after another one goes on with: all that the two have in common. */
const SHARED = Object.keys(LAYOUTS);

export interface BpfObject {
  readonly file: ObjectFile;
  readonly program: Program;
  readonly outProgram: Program;
  /** Descriptor of the program that renews the lease. */
  readonly renewProgram: number;
  readonly addresses: BpfMap;
  readonly binds: BpfMap;
  readonly peers: BpfMap;
  readonly tables: BpfMap;
  readonly stats: BpfMap;
  readonly ports: BpfMap;
  readonly listeners: BpfMap;
  readonly lease: BpfMap;
  /** Descriptor of the ring buffer. */
  readonly safetyNet: number;
  /** What the maps have room for. */
  readonly sizes: Sizes;
  /** They are smaller than wanted, since memory is limited. */
  readonly lessened: boolean;
  /** The maps are those of an agent before this one, with all that is in them. */
  readonly adopted: boolean;
  close(): void;
}

/** Loads the object file; an error says in one line why there is no kernel path on this machine. */
export function loadObject(path: string, bpf: Bpf = libbpf, around = surroundings): BpfObject {
  const isLimited = () => isMemoryLimited(around.release(), around.memlock());
  if (isLimited()) raiseMemlock();
  const isShortage = (error: unknown) => isRefusal(error, EPERM) && isLimited();
  const attempt = (sizes: Sizes) => {
    const object = openAndLoad(path, sizes, bpf, around);
    // A program without room for tables serves nobody; with the smallest maps, it has what there is.
    if (sizes !== SIZES.at(-1) && isLimited()) proveRoom(object, bpf, around);
    return object;
  };
  return firstThatFits(SIZES, attempt, isShortage);
}

/** Loads the object file as the successor of the program that is at work: with its maps. Throws why that cannot be. */
export function loadSuccessor(
  path: string,
  left: Predecessor,
  bpf: Bpf = libbpf,
  around: Surroundings = surroundings,
): BpfObject {
  const leftOf = (name: string) => {
    const map = left.maps.find((one) => isNamed(one.name, name));
    if (!map) throw new Error(`its map ${name} is missing`);
    return map;
  };
  const sizes = SIZES.find((one) => Object.entries(one).every(([name, size]) => leftOf(name).maxEntries === size));
  if (!sizes) throw new Error('its maps have other sizes');
  return openAndLoad(path, sizes, bpf, around, leftOf);
}

/** libbpf puts the object's name before those of global variables. */
function isNamed(found: string, name: string): boolean {
  return name.startsWith('.') ? found.endsWith(name) : found === name;
}

function isRefusal(error: unknown, errno: number): boolean {
  const { cause } = error as Error;
  return cause instanceof SystemError && cause.errno === errno;
}

/** Throws what a slot table would be refused with. */
function proveRoom(object: BpfObject, bpf: Bpf, around: Surroundings): void {
  const fd = bpf.innerArrayCreate('slot_table', LAYOUT.slot.size, ROOM_FOR_TABLES);
  if (fd >= 0) {
    bpf.close(fd);
    return;
  }
  object.close();
  const cause = new SystemError('bpf_map_create of a slot table', -fd, mapRefusal(-fd, around));
  throw new Error(cause.message, { cause });
}

function openAndLoad(
  path: string,
  sizes: Sizes,
  bpf: Bpf,
  around: Surroundings,
  leftOf?: (name: string) => LeftMap,
): BpfObject {
  const object = open(path, bpf);
  try {
    return load(path, object, sizes, bpf, around, leftOf);
  } catch (error) {
    bpf.objectClose(object);
    throw error;
  }
}

function open(path: string, bpf: Bpf): libbpf.Pointer {
  try {
    return bpf.objectOpen(path);
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    const mend = 'build it with npm run build';
    const message =
      cause.errno === ENOENT
        ? `not found: ${mend}, or name it with --ebpf-program`
        : // libbpf has numbers of its own for what is no ELF file, or not of this machine's byte order.
          `cannot be read: ${cause.errno < LIBBPF_ERRNO ? cause.code : 'it is no BPF object'}: ${mend}`;
    throw new Error(`BPF object "${path}" ${message}`, { cause });
  }
}

function load(
  path: string,
  object: libbpf.Pointer,
  sizes: Sizes,
  bpf: Bpf,
  around: Surroundings,
  leftOf?: (name: string) => LeftMap,
): BpfObject {
  const maps = bpf.objectMaps(object);
  const find = (name: string) => {
    const map = maps.find((one) => isNamed(one.name, name));
    if (!map) throw new Error(`BPF object "${path}" has no map ${name}: it is not udp-fanout's`);
    return map;
  };
  checkVersion(path, bpf.mapInitialValue(find('.rodata')));
  for (const [name, [key, value]] of Object.entries(LAYOUTS)) {
    const map = find(name);
    if (map.keySize === key && map.valueSize === value) continue;
    const found = `keys of ${map.keySize} and values of ${map.valueSize} bytes`;
    throw new Error(`BPF object "${path}": map ${name} has ${found}, want ${key} and ${value}: build it anew`);
  }
  for (const [name, entries] of Object.entries({ ...sizes, LISTENERS: sizes.STATS })) {
    bpf.mapSetMaxEntries(find(name), entries);
  }
  if (leftOf) {
    for (const name of SHARED) {
      check(`bpf_map__reuse_fd of ${name}`, bpf.mapReuse(find(name), leftOf(name).fd));
    }
  }
  const file = { path, compiler: sectionText(path, '.comment') };
  const result = bpf.objectLoad(object);
  if (result < 0) throw loadFailure(file, -result, sizes, bpf, around);
  const program = (name: string) => {
    const fd = bpf.programFd(object, name);
    if (fd === undefined) throw new Error(`BPF object "${path}" has no program ${name}`);
    return { fd, id: bpf.programId(fd) };
  };
  const live = (name: string) => {
    const map = find(name);
    return new BpfMap({ ...map, name, fd: bpf.mapFd(map), entries: sizes[name as keyof Sizes] }, bpf);
  };
  const main = program(PROGRAM);
  // Else nobody would find what they say by the program.
  check('bpf_prog_bind_map', bpf.programBindMap(main.fd, bpf.mapFd(find('LISTENERS'))));
  return {
    file,
    program: main,
    outProgram: program(OUT_PROGRAM),
    renewProgram: program(RENEW_PROGRAM).fd,
    addresses: live('ADDRESSES'),
    binds: live('BINDS'),
    peers: live('PEERS'),
    tables: live('TABLES'),
    stats: live('STATS'),
    ports: live('.bss'),
    listeners: live('LISTENERS'),
    lease: live('.data.lease'),
    safetyNet: bpf.mapFd(find('SAFETY_NET')),
    sizes,
    lessened: sizes !== SIZES[0],
    adopted: leftOf !== undefined,
    close: () => bpf.objectClose(object),
  };
}

function checkVersion(path: string, rodata: Uint8Array): void {
  const abi = new DataView(rodata.buffer, rodata.byteOffset, rodata.byteLength).getUint32(0, true);
  if (abi === ABI) return;
  throw new Error(`BPF object "${path}" is of version ${abi}, this agent needs version ${ABI}: build both together`);
}

function loadFailure(file: ObjectFile, errno: number, sizes: Sizes, bpf: Bpf, around: Surroundings): Error {
  const cause = new SystemError('bpf_object__load', errno);
  const needed = chargedBytes(sizes, bpf.possibleCpus());
  return new Error(loadRefusal(file, { error: cause, log: bpf.kernelLog(), needed }, around), { cause });
}
