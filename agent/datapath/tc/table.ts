/** A slot table in the kernel: one array map of cells (union cell in bpf/udp_fanout.h), written once, then only read. */
import { constants } from 'node:os';
import { type Family, formatAddress, type SocketAddress } from '../../address.ts';
import { check } from '../../ffi/errno.ts';
import { mapRefusal } from '../../kernel/refusal.ts';
import { type Counts, sum } from '../counts.ts';
import { Detours, isOwnSource } from '../detours.ts';
import {
  CONSTANTS,
  cellsBeforeCounters,
  decodeTable,
  encodeTable,
  encodeU32,
  LAYOUT,
  type Lineage,
  type Slot,
  tableCells,
} from './abi.ts';
import type { Bpf } from './bpf.ts';

const { ENOENT } = constants.errno;
const CELL = LAYOUT.slot.size;

/** What a table was made from: the same version and addresses again make the same table. */
export interface Basis {
  readonly version: number;
  readonly local: ReadonlySet<string>;
}

/** Of the last table that was made in this process. */
let generation = 0;

export class KernelTable {
  readonly fd: number;
  /** Undefined where it also depends on what nobody tells us of. */
  basis: Basis | undefined;
  readonly #bpf: Bpf;
  #slots: readonly Slot[];
  /** The downstream of each slot, as formatAddress writes it. */
  readonly #downstreams: readonly string[];
  /** By downstream: its first slot. */
  readonly #firstSlot: ReadonlyMap<string, number>;
  /** Made when the first sender needs one. */
  #detours: Detours | undefined;
  readonly #lineage: Lineage;
  readonly #cpuIds: number;
  readonly #bytes: Uint8Array;
  /** By slot: what went through tables before this one, or past any. The map has it too, for an agent after this one. */
  readonly #own: BigUint64Array;
  #isOwnWritten = true;

  private constructor(bpf: Bpf, fd: number, slots: readonly Slot[], lineage: Lineage, bytes: Uint8Array) {
    this.#bpf = bpf;
    this.fd = fd;
    this.#slots = slots;
    this.#downstreams = slots.map(({ address }) => formatAddress(address));
    this.#firstSlot = new Map(this.#downstreams.map((key, slot) => [key, slot] as const).reverse());
    this.#lineage = lineage;
    this.#cpuIds = bpf.cpuIds();
    this.#bytes = bytes;
    const { row } = this.#cells();
    this.#own = new BigUint64Array(row * CONSTANTS.COUNTERS_A_CELL);
    generation = Math.max(generation, lineage.generation);
  }

  /**
   * Makes the map and writes the slots, and what downstreams had that are back; the program does not know it yet. Throws
   * SystemError.
   */
  static make(bpf: Bpf, slots: readonly Slot[], old: KernelTable | undefined, back: Counts): KernelTable {
    const present = new Set(slots.map(({ address }) => formatAddress(address)));
    const lineage = lineageAfter(present, old && { ...old.#lineage, downstreams: old.#downstreams });
    const { cells } = tableCells(slots.length, lineage, bpf.cpuIds());
    const bytes = encodeTable(slots, lineage, bpf.cpuIds());
    const fd = bpf.innerArrayCreate('slot_table', CELL, cells);
    check('bpf_map_create of a slot table', fd, mapRefusal(-fd));
    const table = new KernelTable(bpf, fd, slots, lineage, bytes);
    try {
      table.#write(0, table.#bytes);
      table.inherit(sum(old?.counters() ?? new Map(), back));
    } catch (error) {
      table.close();
      throw error;
    }
    return table;
  }

  /** A table that an agent before this one made, which the descriptor is of. Throws SystemError. */
  static adopt(bpf: Bpf, fd: number, family: Family): KernelTable {
    const cells = readCells(bpf, fd, 0, cellsBeforeCounters(readCells(bpf, fd, 0, 1)));
    const { slots, lineage } = decodeTable(family, cells);
    const table = new KernelTable(bpf, fd, slots, lineage, cells);
    const { own, row } = table.#cells();
    table.#own.set(new BigUint64Array(readCells(bpf, fd, own, row).buffer));
    return table;
  }

  /** True if a table of these slots would be the same to the program. */
  holds(slots: readonly Slot[]): boolean {
    if (slots.length !== this.#slots.length) return false;
    return Buffer.compare(encodeTable(slots, this.#lineage, this.#cpuIds), this.#bytes) === 0;
  }

  /** The same slots, of which more may be known than the program's table has. */
  learn(slots: readonly Slot[]): void {
    this.#slots = slots;
    this.#detours = undefined;
  }

  has(downstream: string): boolean {
    return this.#firstSlot.has(downstream);
  }

  /** Its downstreams, as formatAddress writes them. */
  get downstreams(): ReadonlySet<string> {
    return new Set(this.#downstreams);
  }

  /** True if the sender is this downstream or its node. */
  isOwnSource(downstream: string, sender: string): boolean {
    const slot = this.#firstSlot.get(downstream);
    return slot !== undefined && isOwnSource(this.#slots[slot]!, sender);
  }

  /** A downstream for a datagram of this sender, another one at each turn; undefined where none will do. */
  another(turn: number, sender: string): SocketAddress | undefined {
    this.#detours ??= new Detours(this.#slots);
    const at = this.#detours.at(turn, sender);
    return at === undefined ? undefined : this.#slots[at]!.address;
  }

  /** Datagrams forwarded to each downstream, also by tables before this one; every downstream is there, if only with 0. */
  counters(): Map<string, number> {
    const { counters, row } = this.#cells();
    const rows = new BigUint64Array(readCells(this.#bpf, this.fd, counters, row * this.#cpuIds).buffer);
    const sums = new Map<string, number>();
    for (const [slot, key] of this.#downstreams.entries()) {
      let sum = (sums.get(key) ?? 0) + Number(this.#own[slot]);
      for (let cpu = 0; cpu < this.#cpuIds; cpu++) {
        sum += Number(rows[cpu * row * CONSTANTS.COUNTERS_A_CELL + slot]);
      }
      sums.set(key, sum);
    }
    return sums;
  }

  /** Sets what its downstreams had before this table. Throws SystemError. */
  inherit(counts: Counts): void {
    for (const [key, slot] of this.#firstSlot) this.#own[slot] = BigInt(counts.get(key) ?? 0);
    this.#isOwnWritten = false;
    this.keep();
  }

  /** Adds datagrams that went to a downstream past the table. */
  count(downstream: string, datagrams: number): void {
    this.#own[this.#firstSlot.get(downstream)!]! += BigInt(datagrams);
    this.#isOwnWritten = false;
  }

  /** Has the map know what was counted here. Throws SystemError. */
  keep(): void {
    if (this.#isOwnWritten) return;
    this.#write(this.#cells().own, new Uint8Array(this.#own.buffer));
    this.#isOwnWritten = true;
  }

  close(): void {
    this.#bpf.close(this.fd);
  }

  #cells() {
    return tableCells(this.#slots.length, this.#lineage, this.#cpuIds);
  }

  #write(first: number, bytes: Uint8Array): void {
    const count = bytes.length / CELL;
    if (count === 0) return;
    const keys = Uint32Array.from({ length: count }, (_, index) => first + index);
    const written = this.#bpf.mapUpdateBatch(this.fd, new Uint8Array(keys.buffer), bytes, count);
    check('bpf_map_update_batch of a slot table', written);
  }
}

/** Cells of a table from the first that is asked for. Throws SystemError. */
function readCells(bpf: Bpf, fd: number, first: number, cells: number): Uint8Array<ArrayBuffer> {
  const values = new Uint8Array(cells * CELL);
  if (cells > 0) {
    const after = first === 0 ? null : encodeU32(first - 1);
    const result = bpf.mapLookupBatch(fd, after, new Uint8Array(cells * 4), values, cells);
    if (result !== -ENOENT) check('bpf_map_lookup_batch of a slot table', result);
  }
  return values;
}

function lineageAfter(
  downstreams: ReadonlySet<string>,
  old: (Lineage & { readonly downstreams: readonly string[] }) | undefined,
): Lineage {
  generation++;
  if (!old) return { generation, since: generation, previous: 0, kept: [] };
  const kept = old.downstreams.map((downstream) => downstreams.has(downstream));
  return { generation, since: old.since, previous: old.generation, kept };
}
