/** A slot table in the kernel: one array map of cells (union cell in bpf/udp_fanout.h), written once, then only read. */
import { constants } from 'node:os';
import { formatAddress, type SocketAddress } from '../../address.ts';
import { check } from '../../ffi/errno.ts';
import { mapRefusal } from '../../kernel/refusal.ts';
import { CONSTANTS, encodeTable, encodeU32, LAYOUT, type Lineage, type Slot, tableCells } from './abi.ts';
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
  readonly #slots: readonly Slot[];
  /** The downstream of each slot, as formatAddress writes it. */
  readonly #downstreams: readonly string[];
  readonly #present: ReadonlySet<string>;
  readonly #lineage: Lineage;
  readonly #cpuIds: number;
  readonly #bytes: Uint8Array;

  /** Makes the map and writes the slots; the program does not know it yet. Throws SystemError. */
  constructor(bpf: Bpf, slots: readonly Slot[], old?: KernelTable) {
    this.#bpf = bpf;
    this.#slots = slots;
    this.#downstreams = slots.map(({ address }) => formatAddress(address));
    this.#present = new Set(this.#downstreams);
    this.#lineage = lineage(this.#present, old && { ...old.#lineage, downstreams: old.#downstreams });
    this.#cpuIds = bpf.cpuIds();
    this.#bytes = encodeTable(slots, this.#lineage, this.#cpuIds);
    const fd = bpf.innerArrayCreate('slot_table', CELL, this.#cells().cells);
    this.fd = check('bpf_map_create of a slot table', fd, mapRefusal(-fd));
    const count = this.#bytes.length / CELL;
    const keys = Uint32Array.from({ length: count }, (_, index) => index);
    const written = bpf.mapUpdateBatch(fd, new Uint8Array(keys.buffer), this.#bytes, count);
    if (written < 0) this.close();
    check('bpf_map_update_batch of a slot table', written);
  }

  /** True if a table of these slots would be the same to the program. */
  holds(slots: readonly Slot[]): boolean {
    if (slots.length !== this.#slots.length) return false;
    return Buffer.compare(encodeTable(slots, this.#lineage, this.#cpuIds), this.#bytes) === 0;
  }

  has(downstream: string): boolean {
    return this.#present.has(downstream);
  }

  /** A downstream that does not have this address, another one at each turn. */
  another(turn: number, not: string): SocketAddress | undefined {
    const others = this.#slots.filter(({ address }) => address.ip !== not);
    return others[turn % others.length]?.address;
  }

  /** Datagrams forwarded through this table, by downstream; every downstream is there, if only with 0. */
  counters(): Map<string, number> {
    const { counters, perCpu } = this.#cells();
    const rows = this.#read(counters, perCpu * this.#cpuIds);
    const sums = new Map<string, number>();
    for (const [index, key] of this.#downstreams.entries()) {
      let sum = sums.get(key) ?? 0;
      for (let cpu = 0; cpu < this.#cpuIds; cpu++) {
        sum += Number(rows[cpu * perCpu * CONSTANTS.COUNTERS_A_CELL + index]);
      }
      sums.set(key, sum);
    }
    return sums;
  }

  close(): void {
    this.#bpf.close(this.fd);
  }

  #cells() {
    return tableCells(this.#slots.length, this.#lineage, this.#cpuIds);
  }

  #read(first: number, cells: number): BigUint64Array {
    const values = new Uint8Array(cells * CELL);
    if (cells > 0) {
      const after = encodeU32(first - 1);
      const result = this.#bpf.mapLookupBatch(this.fd, after, new Uint8Array(cells * 4), values, cells);
      if (result !== -ENOENT) check('bpf_map_lookup_batch of a slot table', result);
    }
    return new BigUint64Array(values.buffer);
  }
}

function lineage(
  downstreams: ReadonlySet<string>,
  old: (Lineage & { readonly downstreams: readonly string[] }) | undefined,
): Lineage {
  generation++;
  if (!old) return { generation, since: generation, previous: 0, kept: [] };
  const kept = old.downstreams.map((downstream) => downstreams.has(downstream));
  return { generation, since: old.since, previous: old.generation, kept };
}
