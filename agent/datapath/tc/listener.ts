/** What one listener has in the kernel, from its first blueprint to its last: a row of STATS and its slot tables. */
import { type Family, formatAddress, type SocketAddress } from '../../address.ts';
import { familiesOf, type Listener, type SlotTable } from '../../model.ts';
import type { ListenerCounters } from '../datapath.ts';
import { RetiredCounts } from '../retired-counts.ts';
import { encodeU32, type NextHop, tableIndex } from './abi.ts';
import type { Bpf } from './bpf.ts';
import { openRow, readTotals } from './counters.ts';
import type { EgressLookup } from './egress.ts';
import type { HandedListener } from './handed/handed-packets.ts';
import { HandedTally } from './handed/tally.ts';
import type { BpfObject } from './object.ts';
import { KernelTable } from './table.ts';

export class KernelListener implements HandedListener {
  /** Its key in STATS, and what its tables' places follow from. */
  readonly row: number;
  /** As the last blueprint has it. */
  listener: Listener;
  readonly #bpf: Bpf;
  readonly #maps: Pick<BpfObject, 'stats' | 'tables'>;
  readonly #tables = new Map<Family, KernelTable>();
  readonly #retired = new RetiredCounts();
  readonly #handed = new HandedTally();
  #turn = 0;

  /** Starts at zero, whoever had the row before. Throws SystemError. */
  constructor(maps: Pick<BpfObject, 'stats' | 'tables'>, row: number, listener: Listener, bpf: Bpf) {
    this.row = row;
    this.listener = listener;
    this.#bpf = bpf;
    this.#maps = maps;
    openRow(maps.stats, row, bpf.possibleCpus());
  }

  /** It has all its tables, so its bind may lead to them. */
  get isReady(): boolean {
    return familiesOf(this.listener).every((family) => this.#tables.has(family));
  }

  /**
   * Replaces a table if it differs; true if it did. The write to TABLES returns after the last datagram has left the
   * old one.
   */
  applyTable({ family, slots, version }: SlotTable, local: ReadonlySet<string>, egress: EgressLookup): boolean {
    const old = this.#tables.get(family);
    // A way out may change without a word, so where one is needed nothing is taken as known.
    const basis = egress.needed(family) ? undefined : { version, local };
    if (old && basis && old.basis?.version === version && old.basis.local === local) return false;
    const hop = (address: SocketAddress): NextHop =>
      local.has(address.ip) ? { local: true } : { local: false, egress: egress.find(address) };
    const wanted = slots.map(({ address }) => ({ address, hop: hop(address) }));
    if (old?.holds(wanted)) {
      old.basis = basis;
      return false;
    }
    const table = new KernelTable(this.#bpf, wanted, old);
    try {
      this.#maps.tables.put(this.#place(family), encodeU32(table.fd));
    } catch (error) {
      table.close();
      throw error;
    }
    table.basis = basis;
    this.#tables.set(family, table);
    if (old) this.#retire(old);
    return true;
  }

  /** Gives up the tables of families that the bind does not take any more. */
  shrink(): void {
    this.#drop((family) => !familiesOf(this.listener).includes(family));
  }

  /**
   * The end of it, when no bind leads here any more. Tables first: when such a write returns, no program run is under
   * way that has seen the bind, so the row is nobody's and may be given to another listener.
   */
  remove(): void {
    this.#drop(() => true);
    this.#maps.stats.remove(encodeU32(this.row));
  }

  /** Lets go of the tables, which TABLES keeps. */
  release(): void {
    for (const table of this.#tables.values()) table.close();
    this.#tables.clear();
  }

  counters(): Omit<ListenerCounters, 'mode'> {
    const totals = this.#handed.addTo(readTotals(this.#maps.stats, this.row, this.#bpf.possibleCpus()));
    // No downstream is in the tables of both families.
    const live = new Map([...this.#tables.values()].flatMap((table) => [...table.counters()]));
    return { listener: this.listener, ...totals, ...this.#retired.with(live) };
  }

  get reportsMtu(): boolean {
    return this.listener.pmtu === 'report';
  }

  has(downstream: SocketAddress): boolean {
    return this.#tables.get(downstream.family)?.has(formatAddress(downstream)) ?? false;
  }

  downstreamFor(meant: SocketAddress, sender: string): SocketAddress | undefined {
    if (this.has(meant) && meant.ip !== sender) return meant;
    return this.#tables.get(meant.family)?.another(this.#turn++, sender);
  }

  forwarded(downstream: string, datagrams: number, bytes: number): void {
    this.#handed.forwarded(datagrams, bytes);
    this.#retired.count(downstream, datagrams);
  }

  dropped(reason: string): void {
    this.#handed.dropped(reason);
  }

  lost(reason: string): void {
    this.#handed.lost(reason);
  }

  #place(family: Family): Uint8Array {
    return encodeU32(tableIndex(this.row, family));
  }

  #drop(which: (family: Family) => boolean): void {
    for (const [family, table] of this.#tables) {
      if (!which(family)) continue;
      this.#maps.tables.remove(this.#place(family));
      this.#tables.delete(family);
      this.#retire(table);
    }
  }

  #retire(table: KernelTable): void {
    this.#retired.add(table.counters(), (key) => [...this.#tables.values()].some((one) => one.has(key)));
    table.close();
  }
}
