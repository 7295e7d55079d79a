/** The BPF object: found, held against what the agent was built for, loaded. */
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { missingCapabilities } from '../../capabilities.ts';
import { SystemError } from '../../ffi/errno.ts';
import * as libbpf from '../../ffi/libbpf.ts';
import { ABI, LAYOUT } from './abi.ts';
import { BpfMap } from './map.ts';

const { EPERM, EACCES } = constants.errno;

const NEEDED = ['BPF', 'NET_ADMIN', 'PERFMON'] as const;

/** __LIBBPF_ERRNO__START of bpf/libbpf.h. */
const LIBBPF_ERRNO = 4000;

export const PROGRAM = 'udp_fanout';

/** Why there is no kernel path on this machine, in one line. */
export class DatapathUnavailable extends Error {
  override readonly name = 'DatapathUnavailable';
}

/** Key and value sizes that the agent's encoders assume. */
const SIZES: Readonly<Record<string, readonly [key: number, value: number]>> = {
  ADDRESSES: [LAYOUT.address_key.size, 4],
  BINDS: [LAYOUT.bind_key.size, LAYOUT.bind.size],
  TABLES: [4, 4],
  STATS: [4, LAYOUT.stats.size],
  '.bss': [4, 65536],
};

export interface BpfObject {
  readonly programFd: number;
  readonly programId: number;
  readonly addresses: BpfMap;
  readonly binds: BpfMap;
  readonly tables: BpfMap;
  readonly stats: BpfMap;
  readonly ports: BpfMap;
  close(): void;
}

/** Loads the object file for so many listeners. Throws DatapathUnavailable. */
export function loadObject(path: string, listeners: number): BpfObject {
  if (!existsSync(path)) {
    throw new DatapathUnavailable(
      `BPF object "${path}" not found: build it with npm run build, or name it with --ebpf-program`,
    );
  }
  let object: libbpf.Pointer;
  try {
    object = libbpf.objectOpen(path);
  } catch (cause) {
    // libbpf has numbers of its own for what is no ELF file, or not of this machine's byte order.
    const why = cause instanceof SystemError && cause.errno < LIBBPF_ERRNO ? cause.code : 'it is no BPF object';
    throw new DatapathUnavailable(`BPF object "${path}" cannot be read: ${why}: build it with npm run build`, {
      cause,
    });
  }
  try {
    return load(path, object, listeners);
  } catch (error) {
    libbpf.objectClose(object);
    throw error;
  }
}

function load(path: string, object: libbpf.Pointer, listeners: number): BpfObject {
  const maps = libbpf.objectMaps(object);
  const find = (name: string) => {
    const map = maps.find((one) => (name.startsWith('.') ? one.name.endsWith(name) : one.name === name));
    if (!map) throw new DatapathUnavailable(`BPF object "${path}" has no map ${name}: it is not udp-fanout's`);
    return map;
  };
  checkVersion(path, find('.rodata'));
  for (const [name, [key, value]] of Object.entries(SIZES)) {
    const map = find(name);
    if (map.keySize === key && map.valueSize === value) continue;
    const found = `keys of ${map.keySize} and values of ${map.valueSize} bytes`;
    throw new DatapathUnavailable(
      `BPF object "${path}": map ${name} has ${found}, want ${key} and ${value}: build it anew`,
    );
  }
  libbpf.mapSetMaxEntries(find('STATS'), listeners);
  const result = libbpf.objectLoad(object);
  if (result < 0) throw loadFailure(path, -result);
  const programFd = libbpf.programFd(object, PROGRAM);
  if (programFd === undefined) throw new DatapathUnavailable(`BPF object "${path}" has no program ${PROGRAM}`);
  const live = (name: string) => {
    const map = find(name);
    return new BpfMap(name, libbpf.mapFd(map), map.keySize, map.valueSize);
  };
  return {
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

function loadFailure(path: string, errno: number): DatapathUnavailable {
  const cause = new SystemError('bpf_object__load', errno);
  // The verifier says EACCES too, of a program that it does not believe, and more of that where PERFMON is missing.
  const missing = missingCapabilities(NEEDED).length > 0;
  if (errno === EPERM || (errno === EACCES && missing)) return new DatapathUnavailable(permissionDenied(), { cause });
  const said = libbpf.kernelLog().trim().split('\n').slice(-3).join(' ');
  return new DatapathUnavailable(`failed to load BPF object "${path}": ${cause.code}${said && `: ${said}`}`, { cause });
}

/** The guide's error, with the capabilities that are missing where that is the reason. */
export function permissionDenied(): string {
  const missing = missingCapabilities(NEEDED);
  const mend =
    missing.length > 0
      ? `missing capability ${missing.join(', ')}: add it under securityContext.capabilities.add`
      : 'all capabilities are there, so a security module (SELinux, AppArmor, lockdown) refuses: see its audit log';
  return `failed to attach TC program: permission denied: ${mend}`;
}
