/** A slot table in the kernel: one array map of cells (union cell in bpf/udp_fanout.h), written once, then only read. */
import { constants } from 'node:os';
import { formatAddress, type SocketAddress } from '../../address.ts';
import { check } from '../../ffi/errno.ts';
import * as libbpf from '../../ffi/libbpf.ts';
import { libc } from '../../ffi/libc.ts';
import { mapRefusal } from '../../kernel/refusal.ts';
import type { Downstream } from '../../model.ts';
import { CONSTANTS, counterCells, encodeSlots, encodeU32, LAYOUT, type NextHop } from './abi.ts';

const { ENOENT } = constants.errno;
const CELL = LAYOUT.slot.size;

export interface Slot {
  readonly address: SocketAddress;
  readonly hop: NextHop;
}

/** What a table was made from, by identity: the same objects again make the same table. */
export interface Basis {
  readonly slots: readonly Downstream[];
  readonly local: ReadonlySet<string>;
}

export class KernelTable {
  readonly fd: number;
  /** Undefined where it also depends on what cannot be told apart by identity. */
  basis: Basis | undefined;
  readonly #slots: readonly Slot[];
  readonly #cpus: number;
  readonly #cells: Uint8Array;

  /** Makes the map and writes the slots; the program does not know it yet. Throws SystemError. */
  constructor(slots: readonly Slot[], cpus: number) {
    this.#slots = slots;
    this.#cpus = cpus;
    this.#cells = encodeSlots(slots, cpus);
    const { cells } = counterCells(slots.length, cpus);
    const fd = libbpf.innerArrayCreate('slot_table', CELL, cells);
    this.fd = check('bpf_map_create of a slot table', fd, mapRefusal(-fd));
    const count = slots.length + 1;
    const keys = Uint32Array.from({ length: count }, (_, index) => index);
    check(
      'bpf_map_update_batch of a slot table',
      libbpf.mapUpdateBatch(this.fd, new Uint8Array(keys.buffer), this.#cells, count),
    );
  }

  /** True if a table of these slots would be the same to the program. */
  holds(slots: readonly Slot[]): boolean {
    return slots.length === this.#slots.length && Buffer.compare(encodeSlots(slots, this.#cpus), this.#cells) === 0;
  }

  has(downstream: string): boolean {
    return this.#slots.some(({ address }) => formatAddress(address) === downstream);
  }

  /** Datagrams forwarded through this table, by downstream; every downstream is there, if only with 0. */
  counters(): Map<string, number> {
    const { first, perCpu } = counterCells(this.#slots.length, this.#cpus);
    const rows = this.#read(first, perCpu * this.#cpus);
    const sums = new Map<string, number>();
    for (const [index, { address }] of this.#slots.entries()) {
      const key = formatAddress(address);
      let sum = sums.get(key) ?? 0;
      for (let cpu = 0; cpu < this.#cpus; cpu++) {
        sum += Number(rows[cpu * perCpu * CONSTANTS.COUNTERS_A_CELL + index]);
      }
      sums.set(key, sum);
    }
    return sums;
  }

  close(): void {
    libc.close(this.fd);
  }

  #read(first: number, cells: number): BigUint64Array {
    const values = new Uint8Array(cells * CELL);
    if (cells > 0) {
      const after = encodeU32(first - 1);
      const result = libbpf.mapLookupBatch(this.fd, after, new Uint8Array(cells * 4), values, cells);
      if (result !== -ENOENT) check('bpf_map_lookup_batch of a slot table', result);
    }
    return new BigUint64Array(values.buffer);
  }
}
