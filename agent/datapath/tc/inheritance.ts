/** What the maps of a dead agent say of its listeners: rows by name, tables, and what its safety net had counted. */
import { BOTH_FAMILIES, type Family } from '../../address.ts';
import { check, SystemError } from '../../ffi/errno.ts';
import { CONSTANTS, decodeBind, encodeU32, tableIndex } from './abi.ts';
import type { Bpf } from './bpf.ts';
import type { HandedCounts } from './handed/tally.ts';
import type { MapMirror } from './mirror.ts';
import type { BpfObject } from './object.ts';

/** A listener that an agent has left; the descriptors of its tables are the reader's to close. */
export interface Left {
  readonly row: number;
  readonly name: string;
  readonly handed: HandedCounts;
  /** Datagrams that went to downstreams which are in none of the tables. */
  readonly gone: number;
  readonly tables: readonly { readonly family: Family; readonly fd: number }[];
  /** Indices of the interfaces that it is bound on. */
  readonly links: ReadonlySet<number>;
}

type Maps = Pick<BpfObject, 'listeners' | 'tables'> & { readonly binds: Pick<MapMirror, 'pairs'> };

/** A value of LISTENERS: the text, and zeroes behind it. */
export function encodeNote(note: string): Uint8Array {
  const bytes = new Uint8Array(CONSTANTS.LISTENER_NOTE_BYTES);
  bytes.set(new TextEncoder().encode(note).subarray(0, bytes.length - 1));
  return bytes;
}

/** The listeners that LISTENERS names. Rows whose note cannot be read are left out. Throws SystemError. */
export function readInheritance({ listeners, tables, binds }: Maps, bpf: Bpf): Left[] {
  const left: Left[] = [];
  const bound = [...binds.pairs()].map((entry) => decodeBind(...entry));
  try {
    for (const [key, value] of listeners.pairs()) {
      const row = new DataView(key.buffer).getUint32(0, true);
      const note = decodeNote(value);
      if (!note) continue;
      const links = new Set(bound.flatMap((bind) => (bind.row === row ? [bind.ifindex] : [])));
      const opened = BOTH_FAMILIES.flatMap((family) => openTable(tables.fd, row, family, bpf));
      left.push({ row, ...note, tables: opened, links });
    }
    return left;
  } catch (error) {
    closeTables(left, bpf);
    throw error;
  }
}

/** Of listeners that nobody goes on with. */
export function closeTables(left: readonly Left[], bpf: Bpf): void {
  for (const { tables } of left) for (const { fd } of tables) bpf.close(fd);
}

function decodeNote(value: Uint8Array): Pick<Left, 'name' | 'handed' | 'gone'> | undefined {
  try {
    return JSON.parse(new TextDecoder().decode(value.subarray(0, value.indexOf(0))));
  } catch {
    return undefined;
  }
}

/** A look-up in a map of maps tells the inner map's id. */
function openTable(tables: number, row: number, family: Family, bpf: Bpf): Left['tables'] {
  const id = new Uint8Array(4);
  const found = bpf.mapLookup(tables, encodeU32(tableIndex(row, family)), id);
  if (found < 0) return [];
  const fd = bpf.mapFdById(new DataView(id.buffer).getUint32(0, true));
  try {
    return [{ family, fd: check('bpf_map_get_fd_by_id of a slot table', fd) }];
  } catch (error) {
    if (error instanceof SystemError) return [];
    throw error;
  }
}
