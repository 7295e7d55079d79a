/** The BPF object: found, held against what the agent was built for, loaded. */
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { sectionText } from '../../ffi/elf.ts';
import { SystemError } from '../../ffi/errno.ts';
import * as libbpf from '../../ffi/libbpf.ts';
import { isMemoryLimited, raiseMemlock } from '../../kernel/memlock.ts';
import { loadRefusal, type ObjectFile, surroundings } from '../../kernel/refusal.ts';
import type { Listener } from '../../model.ts';
import { ABI, LAYOUT } from './abi.ts';
import { BpfMap } from './map.ts';
import { chargedBytes, firstThatFits, type Sizes, sizesFor, smallerSizes } from './sizes.ts';

const { EPERM } = constants.errno;

/** __LIBBPF_ERRNO__START of bpf/libbpf.h. */
const LIBBPF_ERRNO = 4000;

export const PROGRAM = 'udp_fanout';

/** Why there is no kernel path on this machine, in one line. */
export class DatapathUnavailable extends Error {
  override readonly name = 'DatapathUnavailable';
}

/** Key and value sizes that the agent's encoders assume. */
const LAYOUTS: Readonly<Record<string, readonly [key: number, value: number]>> = {
  ADDRESSES: [LAYOUT.address_key.size, 4],
  BINDS: [LAYOUT.bind_key.size, LAYOUT.bind.size],
  TABLES: [4, 4],
  STATS: [4, LAYOUT.stats.size],
  FRAGMENTS: [LAYOUT.fragment_key.size, LAYOUT.fragment.size],
  '.bss': [4, 65536],
};

export interface BpfObject {
  readonly file: ObjectFile;
  readonly programFd: number;
  readonly programId: number;
  readonly addresses: BpfMap;
  readonly binds: BpfMap;
  readonly tables: BpfMap;
  readonly stats: BpfMap;
  readonly ports: BpfMap;
  /** What the maps have room for. */
  readonly sizes: Sizes;
  /** They are smaller than wanted, since memory is limited. */
  readonly lessened: boolean;
  close(): void;
}

/** Loads the object file for these listeners. Throws DatapathUnavailable. */
export function loadObject(path: string, listeners: readonly Pick<Listener, 'bind' | 'interfaces'>[]): BpfObject {
  if (!existsSync(path)) {
    throw new DatapathUnavailable(
      `BPF object "${path}" not found: build it with npm run build, or name it with --ebpf-program`,
    );
  }
  const wanted = sizesFor(listeners);
  const isLimited = () => isMemoryLimited(surroundings.release(), surroundings.memlock());
  if (isLimited()) raiseMemlock();
  const isShortage = (error: unknown) => isRefusal(error, EPERM) && isLimited();
  return firstThatFits(smallerSizes(wanted), (sizes) => openAndLoad(path, sizes, sizes !== wanted), isShortage);
}

function isRefusal(error: unknown, errno: number): boolean {
  return error instanceof DatapathUnavailable && error.cause instanceof SystemError && error.cause.errno === errno;
}

function openAndLoad(path: string, sizes: Sizes, lessened: boolean): BpfObject {
  const object = open(path);
  try {
    return { ...load(path, object, sizes), sizes, lessened };
  } catch (error) {
    libbpf.objectClose(object);
    throw error;
  }
}

function open(path: string): libbpf.Pointer {
  try {
    return libbpf.objectOpen(path);
  } catch (cause) {
    // libbpf has numbers of its own for what is no ELF file, or not of this machine's byte order.
    const why = cause instanceof SystemError && cause.errno < LIBBPF_ERRNO ? cause.code : 'it is no BPF object';
    throw new DatapathUnavailable(`BPF object "${path}" cannot be read: ${why}: build it with npm run build`, {
      cause,
    });
  }
}

function load(path: string, object: libbpf.Pointer, sizes: Sizes): Omit<BpfObject, 'sizes' | 'lessened'> {
  const maps = libbpf.objectMaps(object);
  const find = (name: string) => {
    const map = maps.find((one) => (name.startsWith('.') ? one.name.endsWith(name) : one.name === name));
    if (!map) throw new DatapathUnavailable(`BPF object "${path}" has no map ${name}: it is not udp-fanout's`);
    return map;
  };
  checkVersion(path, find('.rodata'));
  for (const [name, [key, value]] of Object.entries(LAYOUTS)) {
    const map = find(name);
    if (map.keySize === key && map.valueSize === value) continue;
    const found = `keys of ${map.keySize} and values of ${map.valueSize} bytes`;
    throw new DatapathUnavailable(
      `BPF object "${path}": map ${name} has ${found}, want ${key} and ${value}: build it anew`,
    );
  }
  for (const [name, entries] of Object.entries(sizes)) libbpf.mapSetMaxEntries(find(name), entries);
  const file = { path, compiler: sectionText(path, '.comment') };
  const result = libbpf.objectLoad(object);
  if (result < 0) throw loadFailure(file, -result, sizes);
  const programFd = libbpf.programFd(object, PROGRAM);
  if (programFd === undefined) throw new DatapathUnavailable(`BPF object "${path}" has no program ${PROGRAM}`);
  const live = (name: string) => {
    const map = find(name);
    return new BpfMap(name, libbpf.mapFd(map), map.keySize, map.valueSize);
  };
  return {
    file,
    programFd,
    programId: libbpf.programId(programFd),
    addresses: live('ADDRESSES'),
    binds: live('BINDS'),
    tables: live('TABLES'),
    stats: live('STATS'),
    ports: live('.bss'),
    close: () => libbpf.objectClose(object),
  };
}

function checkVersion(path: string, rodata: libbpf.ObjectMap): void {
  const bytes = libbpf.mapInitialValue(rodata);
  const abi = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true);
  if (abi === ABI) return;
  throw new DatapathUnavailable(
    `BPF object "${path}" is of version ${abi}, this agent needs version ${ABI}: build both together`,
  );
}

function loadFailure(file: ObjectFile, errno: number, sizes: Sizes): DatapathUnavailable {
  const error = new SystemError('bpf_object__load', errno);
  const needed = chargedBytes(sizes, libbpf.possibleCpus());
  return new DatapathUnavailable(loadRefusal(file, { error, log: libbpf.kernelLog(), needed }), { cause: error });
}
