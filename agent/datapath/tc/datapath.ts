/**
 * The kernel path: BPF maps and attachments made what the blueprint says. The order is the point of this file: tables
 * before the binds that lead to them, binds before the ports that open them, all of it before an attachment; and
 * removals the other way round. So no datagram meets a listener that is half there.
 */
import { type Family, type IpAddress, isWildcard, type SocketAddress } from '../../address.ts';
import { possibleCpus } from '../../ffi/libbpf.ts';
import type { Log } from '../../log.ts';
import { familiesOf, LIMITS, type Listener, type SlotTable } from '../../model.ts';
import type { Blueprint, Datapath, Interface, ListenerBlueprint, ListenerCounters, Problem } from '../datapath.ts';
import { CONSTANTS, encodeAddressKey, encodeBind, encodeBindKey, encodeU32, type NextHop, tableIndex } from './abi.ts';
import { attach, attachFailure, detach, hasPredecessor, type ListFilters } from './attachment.ts';
import { readTotals, staggerCursors } from './counters.ts';
import type { EgressLookup } from './egress.ts';
import { MapMirror } from './mirror.ts';
import { type BpfObject, loadObject } from './object.ts';
import { lessenedMaps } from './sizes.ts';
import { KernelTable } from './table.ts';

/** How long a dead agent's program may go on for the sake of listeners whose downstreams are not known yet. */
const HANDOVER_MS = 30_000;
const MAX_RETIRED = 4 * LIMITS.downstreamsPerListener;

export interface TcDependencies {
  readonly log: Log;
  readonly objectPath: string;
  readonly listeners: readonly Listener[];
  readonly filters: ListFilters;
  /** Ways towards downstreams, needed only where the FIB refuses because forwarding is off; asked for once a pass. */
  readonly egressLookup: (interfaces: readonly Interface[]) => EgressLookup;
}

/** Loads the program; attaches nothing yet. Throws DatapathUnavailable. */
export function openTcDatapath(dependencies: TcDependencies): Datapath {
  const { log, objectPath, listeners } = dependencies;
  const object = loadObject(objectPath, listeners);
  if (object.lessened) log.warn(lessenedMaps(object.sizes));
  return new TcDatapath(dependencies, object);
}

class TcDatapath implements Datapath {
  readonly mode = 'tc_ebpf';
  readonly #deps: TcDependencies;
  readonly #object: BpfObject;
  readonly #cpus = possibleCpus();
  /** By index of TABLES. */
  readonly #tables = new Map<number, KernelTable>();
  /** Datagrams by downstream of tables that were replaced, by listener. */
  readonly #retired = new Map<number, Map<string, number>>();
  readonly #addresses: MapMirror;
  readonly #binds: MapMirror;
  /** The node's own addresses; the same object as long as they are the same. */
  #local: ReadonlySet<string> = new Set();
  #attached = new Map<number, Interface>();
  readonly #handoverUntil = Date.now() + HANDOVER_MS;

  constructor(dependencies: TcDependencies, object: BpfObject) {
    this.#deps = dependencies;
    this.#object = object;
    this.#addresses = new MapMirror(object.addresses);
    this.#binds = new MapMirror(object.binds);
    for (const { id } of dependencies.listeners) staggerCursors(object.stats, id, this.#cpus);
  }

  apply(blueprint: Blueprint): readonly Problem[] {
    const problems: Problem[] = [];
    const local = new Set(blueprint.addresses.map(({ ip }) => ip));
    if (local.symmetricDifference(this.#local).size > 0) this.#local = local;
    const ready = blueprint.listeners.filter((one) => this.#applyTables(one, problems));
    const addresses = this.#addresses.diff(wantedAddresses(blueprint));
    const binds = this.#binds.diff(wantedBinds(ready));
    addresses.add();
    binds.add();
    this.#object.ports.put(encodeU32(0), wantedPorts(ready));
    this.#applyAttachments(blueprint.listeners, ready, problems);
    binds.remove();
    addresses.remove();
    return problems;
  }

  counters(): readonly ListenerCounters[] {
    return this.#deps.listeners.map((listener) => ({
      listener,
      mode: this.mode,
      ...readTotals(this.#object.stats, listener.id, this.#cpus),
      downstreams: this.#downstreamCounters(listener),
    }));
  }

  close(): void {
    for (const { index } of this.#attached.values()) this.#detach(index);
    this.#attached.clear();
    for (const table of this.#tables.values()) table.close();
    this.#object.close();
  }

  /** True if the listener has all its tables, so that its bind may lead to them. */
  #applyTables({ listener, interfaces, tables }: ListenerBlueprint, problems: Problem[]): boolean {
    const ways = this.#deps.egressLookup(interfaces);
    try {
      const changed = tables.filter((table) => this.#applyTable(listener, table, ways));
      if (changed.length > 0) {
        const endpoints = new Set(tables.flatMap((table) => table.slots)).size;
        this.#deps.log.info('updated tc_ebpf downstream set', { listener_id: listener.id, endpoints });
      }
    } catch (error) {
      const message = `failed to update the downstreams of listener "${listener.name}": ${(error as Error).message}`;
      problems.push({ subject: `endpoints(${listener.name})`, message });
    }
    return familiesOf(listener).every((family) => this.#tables.has(tableIndex(listener.id, family)));
  }

  /**
   * Replaces the table if it differs; true if it did. The write to TABLES returns after the last datagram has left the
   * old one.
   */
  #applyTable(listener: Listener, { family, slots }: SlotTable, ways: EgressLookup): boolean {
    const index = tableIndex(listener.id, family);
    const old = this.#tables.get(index);
    // A way out may change without a word, so where one is needed nothing is taken as known.
    const basis = ways.needed(family) ? undefined : { slots, local: this.#local };
    if (old && basis && old.basis?.slots === slots && old.basis.local === this.#local) return false;
    const hop = (address: SocketAddress): NextHop =>
      this.#local.has(address.ip) ? { local: true } : { local: false, egress: ways.find(address) };
    const wanted = slots.map(({ address }) => ({ address, hop: hop(address) }));
    if (old?.holds(wanted)) {
      old.basis = basis;
      return false;
    }
    const table = new KernelTable(wanted, this.#cpus);
    try {
      this.#object.tables.put(encodeU32(index), encodeU32(table.fd));
    } catch (error) {
      table.close();
      throw error;
    }
    table.basis = basis;
    this.#tables.set(index, table);
    if (old) this.#retire(listener, old);
    return true;
  }

  #retire(listener: Listener, table: KernelTable): void {
    const counted = sumOf([this.#retired.get(listener.id), table.counters()]);
    // Pods come and go for months: what is remembered of those that are gone must not grow with them.
    if (counted.size > MAX_RETIRED)
      for (const key of counted.keys()) if (!this.#isLive(listener, key)) counted.delete(key);
    this.#retired.set(listener.id, counted);
    table.close();
  }

  #isLive(listener: Listener, downstream: string): boolean {
    return familiesOf(listener).some((family) => this.#tables.get(tableIndex(listener.id, family))?.has(downstream));
  }

  /** Of the downstreams that the listener has now, with what they got through earlier tables. */
  #downstreamCounters(listener: Listener): ReadonlyMap<string, number> {
    const live = sumOf(
      familiesOf(listener).map((family: Family) => this.#tables.get(tableIndex(listener.id, family))?.counters()),
    );
    const retired = this.#retired.get(listener.id);
    return new Map([...live].map(([key, count]) => [key, count + (retired?.get(key) ?? 0)]));
  }

  #applyAttachments(
    planned: readonly ListenerBlueprint[],
    ready: readonly ListenerBlueprint[],
    problems: Problem[],
  ): void {
    const links = (of: readonly ListenerBlueprint[]) =>
      new Map(of.flatMap(({ interfaces }) => interfaces.map((link) => [link.index, link] as const)));
    const wanted = links(ready);
    const waiting = links(planned.filter((one) => !ready.includes(one)));
    for (const index of this.#attached.keys()) {
      if (wanted.has(index)) continue;
      this.#detach(index);
      this.#attached.delete(index);
    }
    for (const link of wanted.values()) {
      if (waiting.has(link.index) && this.#predecessorServes(link)) continue;
      this.#attach(link, problems);
    }
  }

  /** A dead agent's program knows downstreams of listeners that we still wait for, so for a while it stays. */
  #predecessorServes({ index }: Interface): boolean {
    return Date.now() < this.#handoverUntil && hasPredecessor(this.#object.programId, index, this.#deps.filters);
  }

  #attach(link: Interface, problems: Problem[]): void {
    try {
      const attached = attach(this.#object.programFd, this.#object.programId, link, this.#deps.filters);
      this.#attached.set(link.index, link);
      if (attached) this.#deps.log.info('attached TC eBPF program to ingress', { interface: link.name });
    } catch (error) {
      problems.push({
        subject: `attachment(${link.name})`,
        message: `${attachFailure(this.#object.file, error)} interface="${link.name}"`,
      });
    }
  }

  #detach(ifindex: number): void {
    try {
      detach(ifindex, this.#deps.filters, ({ bpfId }) => bpfId === this.#object.programId);
    } catch (error) {
      this.#deps.log.warn('failed to detach TC eBPF program', { ifindex, error: (error as Error).message });
    }
  }
}

function sumOf(counts: readonly (ReadonlyMap<string, number> | undefined)[]): Map<string, number> {
  const sum = new Map<string, number>();
  for (const count of counts) for (const [key, value] of count ?? []) sum.set(key, (sum.get(key) ?? 0) + value);
  return sum;
}

/** ADDRESSES: the node's own, and those that listeners bind. */
function* wantedAddresses({ addresses, listeners }: Blueprint): Generator<readonly [Uint8Array, Uint8Array]> {
  const flags = new Map<string, { key: Uint8Array; value: number }>();
  const add = (address: IpAddress, flag: number) => {
    const entry = flags.get(address.ip) ?? { key: encodeAddressKey(address), value: 0 };
    flags.set(address.ip, { ...entry, value: entry.value | flag });
  };
  for (const address of addresses) add(address, CONSTANTS.ADDRESS_LOCAL);
  for (const { listener } of listeners) if (!isWildcard(listener.bind)) add(listener.bind, CONSTANTS.ADDRESS_BOUND);
  for (const { key, value } of flags.values()) yield [key, encodeU32(value)];
}

/**
 * BINDS: each listener on each of its interfaces. `[::]` takes IPv4 too, but where another listener binds 0.0.0.0 and
 * the same port, that one is the more specific: such entries come last and win.
 */
function* wantedBinds(ready: readonly ListenerBlueprint[]): Generator<readonly [Uint8Array, Uint8Array]> {
  const dualStackFirst = [...ready].sort((a, b) => familiesOf(b.listener).length - familiesOf(a.listener).length);
  for (const { listener, interfaces } of dualStackFirst) {
    for (const family of familiesOf(listener)) {
      for (const { index } of interfaces) {
        yield [encodeBindKey(listener.bind, family, index), encodeBind(listener.id, family)];
      }
    }
  }
}

/** The program's array of port flags. */
function wantedPorts(ready: readonly ListenerBlueprint[]): Uint8Array {
  const ports = new Uint8Array(65536);
  for (const { listener, interfaces } of ready) {
    if (interfaces.length === 0) continue;
    ports[listener.bind.port]! |= isWildcard(listener.bind) ? CONSTANTS.PORT_WILDCARD : CONSTANTS.PORT_SPECIFIC;
  }
  return ports;
}
