/** What one listener has in the kernel, from its first blueprint to its last: a row of STATS and its slot tables. */
import { type Family, formatAddress, type SocketAddress } from '../../address.ts';
import { familiesOf, type Listener, type SlotTable } from '../../model.ts';
import { type Counts, sum } from '../counts.ts';
import type { ListenerCounters } from '../datapath.ts';
import { seenFromHere } from '../detours.ts';
import { RetiredCounts } from '../retired-counts.ts';
import { encodeU32, type NextHop, type Slot, tableIndex } from './abi.ts';
import type { Bpf } from './bpf.ts';
import { openRow, readTotals } from './counters.ts';
import type { EgressLookup } from './egress.ts';
import type { HandedListener } from './handed/handed-packets.ts';
import { HandedTally } from './handed/tally.ts';
import { encodeNote, type Left } from './inheritance.ts';
import type { BpfObject } from './object.ts';
import { KernelTable } from './table.ts';

type Maps = Pick<BpfObject, 'stats' | 'tables' | 'listeners'>;

export class KernelListener implements HandedListener {
  /** Its key in STATS, and what its tables' places follow from. */
  readonly row: number;
  /** As the last blueprint has it; undefined for one that an agent before this one had, until there is a blueprint. */
  #listener: Listener | undefined;
  readonly #bpf: Bpf;
  readonly #maps: Maps;
  readonly #tables = new Map<Family, KernelTable>();
  /** The families whose tables an agent before this one has made. */
  readonly #left = new Set<Family>();
  /** Indices of the interfaces that that agent had bound it on. */
  #links: ReadonlySet<number> = new Set();
  readonly #retired = new RetiredCounts();
  readonly #handed: HandedTally;
  readonly #name: string;
  /** What LISTENERS has of it. */
  #note = '';
  #turn = 0;

  private constructor(maps: Maps, row: number, name: string, bpf: Bpf, handed: HandedTally) {
    this.row = row;
    this.#name = name;
    this.#bpf = bpf;
    this.#maps = maps;
    this.#handed = handed;
  }

  /** Starts at zero, whoever had the row before. Throws SystemError. */
  static open(maps: Maps, row: number, listener: Listener, bpf: Bpf): KernelListener {
    const one = new KernelListener(maps, row, listener.name, bpf, new HandedTally());
    one.#listener = listener;
    openRow(maps.stats, row, bpf.possibleCpus());
    one.keep();
    return one;
  }

  /** Goes on with the row, the tables and the counters that an agent before this one has left. Throws SystemError. */
  static adopt(maps: Maps, { row, name, handed, gone, tables, links }: Left, bpf: Bpf): KernelListener {
    const one = new KernelListener(maps, row, name, bpf, new HandedTally(handed));
    one.#links = links;
    for (const { family, fd } of tables) {
      one.#tables.set(family, KernelTable.adopt(bpf, fd, family));
      one.#left.add(family);
    }
    one.#retired.addOthers(gone);
    one.keep();
    return one;
  }

  /** From now on it is this one, which has the same name. */
  set listener(listener: Listener) {
    this.#listener = listener;
  }

  /** It has all its tables, so its bind may lead to them. */
  get isReady(): boolean {
    return this.#families().every((family) => this.#tables.has(family));
  }

  /** The downstreams of a table that is still that of an agent before this one. */
  left(family: Family): ReadonlySet<string> | undefined {
    const table = this.#tables.get(family);
    return table && this.#left.has(family) ? table.downstreams : undefined;
  }

  /** True if an agent before this one had it on that interface, and it still has a table of that agent's. */
  isLeftOn(ifindex: number): boolean {
    return this.#left.size > 0 && this.#links.has(ifindex);
  }

  /**
   * Replaces a table if it differs; true if it did. The write to TABLES returns after the last datagram has left the
   * old one.
   */
  applyTable({ family, slots, version }: SlotTable, local: ReadonlySet<string>, egress: EgressLookup): boolean {
    const old = this.#tables.get(family);
    this.#left.delete(family);
    // A way out may change without a word, so where one is needed nothing is taken as known.
    const basis = egress.needed(family) ? undefined : { version, local };
    if (old && basis && old.basis?.version === version && old.basis.local === local) return false;
    const hop = (address: SocketAddress): NextHop =>
      local.has(address.ip) ? { local: true } : { local: false, egress: egress.find(address) };
    const wanted = slots.map(({ address, node }) =>
      seenFromHere({ address, node, hop: hop(address) }, (ip) => local.has(ip)),
    );
    if (old?.holds(wanted)) {
      old.basis = basis;
      old.learn(wanted);
      return false;
    }
    const present = new Set(wanted.map(({ address }) => formatAddress(address)));
    const back = this.#retired.take((key) => present.has(key));
    const table = this.#swap(family, wanted, old, back);
    table.basis = basis;
    if (old) this.#retire(old, table, back);
    this.keep();
    return true;
  }

  #swap(family: Family, slots: readonly Slot[], old: KernelTable | undefined, back: Counts): KernelTable {
    let table: KernelTable | undefined;
    try {
      table = KernelTable.make(this.#bpf, slots, old, back);
      this.#maps.tables.put(this.#place(family), encodeU32(table.fd));
      this.#tables.set(family, table);
      return table;
    } catch (error) {
      table?.close();
      this.#retired.add(back, () => false);
      throw error;
    }
  }

  /** Gives up the tables of families that the bind does not take any more. */
  shrink(): void {
    this.#drop((family) => !this.#families().includes(family));
  }

  /**
   * The end of it, when no bind leads here any more. Tables first: when such a write returns, no program run is under
   * way that has seen the bind, so the row is nobody's and may be given to another listener.
   */
  remove(): void {
    this.#drop(() => true);
    this.#maps.listeners.remove(encodeU32(this.row));
    this.#maps.stats.remove(encodeU32(this.row));
  }

  /** Has the maps know what is counted here, for an agent after this one. Throws SystemError. */
  keep(): void {
    for (const table of this.#tables.values()) table.keep();
    const note = JSON.stringify({ name: this.#name, handed: this.#handed.counts, gone: this.#retired.total });
    if (note === this.#note) return;
    this.#maps.listeners.put(encodeU32(this.row), encodeNote(note));
    this.#note = note;
  }

  /** Lets go of the tables, which TABLES keeps. */
  release(): void {
    for (const table of this.#tables.values()) table.close();
    this.#tables.clear();
  }

  /** What was read is kept: no agent after this one tells less. Undefined until a blueprint has named the listener. */
  counters(): Omit<ListenerCounters, 'mode'> | undefined {
    if (!this.#listener) return undefined;
    this.keep();
    const totals = this.#handed.addTo(readTotals(this.#maps.stats, this.row, this.#bpf.possibleCpus()));
    return { listener: this.#listener, ...totals, ...this.#retired.with(this.#live()) };
  }

  get reportsMtu(): boolean {
    return this.#listener?.pmtu === 'report';
  }

  has(downstream: SocketAddress): boolean {
    return this.#tables.get(downstream.family)?.has(formatAddress(downstream)) ?? false;
  }

  isOwnSource(downstream: SocketAddress, sender: string): boolean {
    return this.#tables.get(downstream.family)?.isOwnSource(formatAddress(downstream), sender) ?? false;
  }

  downstreamFor(meant: SocketAddress, sender: string): SocketAddress | undefined {
    if (this.has(meant) && !this.isOwnSource(meant, sender)) return meant;
    return this.#tables.get(meant.family)?.another(this.#turn++, sender);
  }

  forwarded(downstream: string, datagrams: number, bytes: number): void {
    this.#handed.forwarded(datagrams, bytes);
    // For each packet of the safety net: no copy.
    for (const table of this.#tables.values()) {
      if (!table.has(downstream)) continue;
      table.count(downstream, datagrams);
      return;
    }
    this.#retired.count(downstream, datagrams);
  }

  dropped(reason: string): void {
    this.#handed.dropped(reason);
  }

  torn(reason: string): void {
    this.#handed.torn(reason);
  }

  #families(): readonly Family[] {
    return this.#listener ? familiesOf(this.#listener) : [...this.#tables.keys()];
  }

  /** No downstream is in the tables of both families. */
  #live(): Map<string, number> {
    return new Map([...this.#tables.values()].flatMap((table) => [...table.counters()]));
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

  #retire(table: KernelTable, next?: KernelTable, back: Counts = new Map()): void {
    const counts = table.counters();
    table.close();
    next?.inherit(sum(counts, back));
    const gone = new Map([...counts].filter(([key]) => !next?.has(key)));
    this.#retired.add(gone, (key) => [...this.#tables.values()].some((one) => one.has(key)));
  }
}
