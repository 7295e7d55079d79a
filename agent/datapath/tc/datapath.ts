/**
 * The kernel path: BPF maps and attachments made what the blueprint says. The order is the point of this file: tables
 * before the binds that lead to them, binds before the ports that open them, all of it before an attachment; and
 * removals the other way round. So no datagram meets a listener that is half there.
 */
import type { Family, SocketAddress } from '../../address.ts';
import { isWildcard } from '../../address.ts';
import { possibleCpus } from '../../ffi/libbpf.ts';
import type { Log } from '../../log.ts';
import { LIMITS, type Listener } from '../../model.ts';
import {
  type Blueprint,
  type Datapath,
  familiesOf,
  type Interface,
  type ListenerBlueprint,
  type ListenerCounters,
  type Problem,
} from '../datapath.ts';
import {
  CONSTANTS,
  encodeAddressKey,
  encodeBind,
  encodeBindKey,
  encodeU32,
  type NextHop,
  tableIndex,
  type WayOut,
} from './abi.ts';
import { attach, attachFailure, detach, type ListFilters } from './attachment.ts';
import { readTotals, staggerCursors } from './counters.ts';
import { MapMirror } from './mirror.ts';
import { type BpfObject, loadObject } from './object.ts';
import { KernelTable, type Slot } from './table.ts';

const MAX_RETIRED = 4 * LIMITS.downstreamsPerListener;

export interface TcDependencies {
  readonly log: Log;
  readonly objectPath: string;
  readonly listeners: readonly Listener[];
  readonly filters: ListFilters;
  /** The way towards an address, needed only where the FIB refuses because forwarding is off. */
  readonly wayOut: (address: SocketAddress, interfaces: readonly Interface[]) => WayOut | undefined;
}

/** Loads the program; attaches nothing yet. Throws DatapathUnavailable. */
export function openTcDatapath(dependencies: TcDependencies): Datapath {
  return new TcDatapath(dependencies, loadObject(dependencies.objectPath, dependencies.listeners.length));
}

class TcDatapath implements Datapath {
  readonly mode = 'tc_ebpf';
  readonly #with: TcDependencies;
  readonly #object: BpfObject;
  readonly #cpus = possibleCpus();
  /** By index of TABLES. */
  readonly #tables = new Map<number, KernelTable>();
  /** Datagrams by downstream of tables that were replaced, by listener. */
  readonly #retired = new Map<number, Map<string, number>>();
  readonly #addresses: MapMirror;
  readonly #binds: MapMirror;
  #attached = new Map<number, Interface>();

  constructor(dependencies: TcDependencies, object: BpfObject) {
    this.#with = dependencies;
    this.#object = object;
    this.#addresses = new MapMirror(object.addresses);
    this.#binds = new MapMirror(object.binds);
    for (const { id } of dependencies.listeners) staggerCursors(object.stats, id, this.#cpus);
  }

  apply(blueprint: Blueprint): readonly Problem[] {
    const problems: Problem[] = [];
    const local = new Set(blueprint.addresses.map(({ ip }) => ip));
    const ready = blueprint.listeners.filter((one) => this.#applyTables(one, local, problems));
    const addresses = this.#addresses.diff(wantedAddresses(blueprint));
    const binds = this.#binds.diff(wantedBinds(ready));
    addresses.add();
    binds.add();
    this.#object.ports.put(encodeU32(0), wantedPorts(ready));
    this.#applyAttachments(ready, problems);
    binds.remove();
    addresses.remove();
    return problems;
  }

  counters(): readonly ListenerCounters[] {
    return this.#with.listeners.map((listener) => ({
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
  #applyTables(one: ListenerBlueprint, local: ReadonlySet<string>, problems: Problem[]): boolean {
    const { listener, tables } = one;
    const hop = (address: SocketAddress): NextHop =>
      local.has(address.ip) ? { local: true } : { local: false, wayOut: this.#with.wayOut(address, one.interfaces) };
    try {
      let changed = false;
      for (const { family, slots } of tables) {
        const wanted = slots.map(({ address }) => ({ address, hop: hop(address) }));
        changed = this.#applyTable(listener, family, wanted) || changed;
      }
      if (changed) {
        const endpoints = new Set(tables.flatMap((table) => table.slots)).size;
        this.#with.log.info('updated tc_ebpf downstream set', { listener_id: listener.id, endpoints });
      }
    } catch (error) {
      const message = `failed to update the downstreams of listener "${listener.name}": ${(error as Error).message}`;
      problems.push({ subject: `endpoints(${listener.name})`, message });
    }
    return tables.every(({ family }) => this.#tables.has(tableIndex(listener.id, family)));
  }

  /** Replaces the table if it differs. The write to TABLES returns after the last datagram has left the old one. */
  #applyTable(listener: Listener, family: Family, wanted: readonly Slot[]): boolean {
    const index = tableIndex(listener.id, family);
    const old = this.#tables.get(index);
    if (old?.holds(wanted)) return false;
    const table = new KernelTable(wanted, this.#cpus);
    try {
      this.#object.tables.put(encodeU32(index), encodeU32(table.fd));
    } catch (error) {
      table.close();
      throw error;
    }
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

  #applyAttachments(ready: readonly ListenerBlueprint[], problems: Problem[]): void {
    const wanted = new Map(ready.flatMap(({ interfaces }) => interfaces.map((link) => [link.index, link] as const)));
    for (const index of this.#attached.keys()) {
      if (wanted.has(index)) continue;
      this.#detach(index);
      this.#attached.delete(index);
    }
    for (const link of wanted.values()) {
      try {
        if (!attach(this.#object.programFd, this.#object.programId, link, this.#with.filters)) continue;
        this.#attached.set(link.index, link);
        this.#with.log.info('attached TC eBPF program to ingress', { interface: link.name });
      } catch (error) {
        problems.push({
          subject: `attachment(${link.name})`,
          message: `${attachFailure(error)} interface="${link.name}"`,
        });
      }
    }
  }

  #detach(ifindex: number): void {
    try {
      detach(ifindex, this.#with.filters, ({ bpfId }) => bpfId === this.#object.programId);
    } catch (error) {
      this.#with.log.warn('failed to detach TC eBPF program', { ifindex, error: (error as Error).message });
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
  const add = (address: { family: Family; ip: string }, flag: number) => {
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
