/**
 * What an agent before this one has left at work on this host: found by its filters, whose program leads to its maps. No
 * pin is needed; but only who has CAP_SYS_ADMIN gets a descriptor by a number.
 */
import { constants } from 'node:os';
import { check, SystemError } from '../../ffi/errno.ts';
import type { MapInfo } from '../../ffi/libbpf.ts';
import type { Interface } from '../datapath.ts';
import { ABI, encodeU32 } from './abi.ts';
import type { Bpf } from './bpf.ts';
import { isOurs, type ListFilters } from './clsact.ts';

const { EPERM } = constants.errno;

/** A map of the predecessor's, with a descriptor of ours. */
export interface LeftMap extends MapInfo {
  readonly fd: number;
}

export interface Predecessor {
  readonly maps: readonly LeftMap[];
  close(): void;
}

/** Why what is there cannot be gone on with; undefined where nothing is there. */
export type Found = { readonly left: Predecessor } | { readonly obstacle: string } | undefined;

/** Looks on all interfaces. What is found is to be closed. */
export function findPredecessor(links: readonly Interface[], filters: ListFilters, bpf: Bpf): Found {
  const id = commonest(
    links.flatMap(({ index }) => filters(index, 'ingress').filter(isOurs)).map(({ bpfId }) => bpfId),
  );
  if (id === undefined) return undefined;
  try {
    const left = openMaps(id, bpf);
    const abi = abiOf(left, bpf);
    if (abi === ABI) return { left };
    left.close();
    return { obstacle: `it is of version ${abi ?? 'unknown'}, this agent has version ${ABI}` };
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    return { obstacle: error.errno === EPERM ? 'the capability SYS_ADMIN is missing' : error.message };
  }
}

/** Of several that agents have left the one on most interfaces. */
function commonest(ids: readonly (number | undefined)[]): number | undefined {
  const counts = new Map<number, number>();
  for (const id of ids) if (id !== undefined) counts.set(id, (counts.get(id) ?? 0) + 1);
  return [...counts].sort(([a, m], [b, n]) => n - m || b - a)[0]?.[0];
}

function openMaps(id: number, bpf: Bpf): Predecessor {
  const maps: LeftMap[] = [];
  const close = () => {
    for (const { fd } of maps) bpf.close(fd);
  };
  const program = check('bpf_prog_get_fd_by_id', bpf.programFdById(id));
  try {
    for (const map of bpf.programMapIds(program)) {
      const fd = check('bpf_map_get_fd_by_id', bpf.mapFdById(map));
      maps.push({ fd, ...bpf.mapInfo(fd) });
    }
    return { maps, close };
  } catch (error) {
    close();
    throw error;
  } finally {
    bpf.close(program);
  }
}

/** The first word of .rodata, as in object.ts. */
function abiOf({ maps }: Predecessor, bpf: Bpf): number | undefined {
  const rodata = maps.find(({ name }) => name.endsWith('.rodata'));
  if (!rodata) return undefined;
  const bytes = new Uint8Array(rodata.valueSize);
  check('bpf_map_lookup_elem of .rodata', bpf.mapLookup(rodata.fd, encodeU32(0), bytes));
  return new DataView(bytes.buffer).getUint32(0, true);
}
