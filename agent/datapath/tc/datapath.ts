/**
 * The kernel path: BPF maps and attachments made what the blueprint says. The order is the point of this file: tables
 * before the binds that lead to them, binds before the ports that open them, all of it before an attachment; and
 * removals the other way round. So no datagram meets a listener that is half there.
 */
import type { Family, IpAddress } from '../../address.ts';
import { now as clockNow, setTimer } from '../../clock.ts';
import * as libbpf from '../../ffi/libbpf.ts';
import type { Log } from '../../log.ts';
import { LogLimiter } from '../../log-limit.ts';
import { familiesOf, type Listener } from '../../model.ts';
import type { Blueprint, Datapath, Interface, ListenerBlueprint, ListenerCounters, Problem } from '../datapath.ts';
import { type Attachment, attachFailure } from './attachment.ts';
import type { Bpf } from './bpf.ts';
import { attachClsact, detachOurs, hasPredecessor, type ListFilters } from './clsact.ts';
import type { EgressLookup } from './egress.ts';
import { closeTables, readInheritance } from './inheritance.ts';
import { Lease } from './lease.ts';
import { KernelListener } from './listener.ts';
import { bindKeys, type OnLink, wantedAddresses, wantedBinds, wantedPeers, wantedPorts } from './matching.ts';
import { FlagsMirror, MapMirror } from './mirror.ts';
import { type BpfObject, loadObject, loadSuccessor } from './object.ts';
import { findPredecessor } from './predecessor.ts';
import { KernelSafetyNet, type SafetyNetDependencies, type SafetyNetSource } from './safety-net.ts';
import { lessenedMaps } from './sizes.ts';

/**
 * How long a dead agent's program that we cannot go on with may serve on, for the sake of listeners whose downstreams are not
 * known yet.
 */
const HANDOVER_MS = 30_000;

export interface TcDependencies {
  readonly log: Log;
  readonly objectPath: string;
  readonly filters: ListFilters;
  /** All interfaces of this host: what is ours on one that no listener names, an agent before this one has left there. */
  readonly links: () => readonly Interface[];
  /** Seconds that the program serves on when nobody renews the lease; 0: for ever. */
  readonly leaseSecs: () => number;
  /** Ways towards downstreams, needed only where the FIB refuses because forwarding is off; asked for once a pass. */
  readonly egressLookup: (interfaces: readonly Interface[]) => EgressLookup;
  /** A downstream that is a host on a link of this one's; undefined where it is none, or not known yet. */
  readonly onLink?: (address: IpAddress) => OnLink | undefined;
  /** Ways to addresses, for what the program cannot send itself. */
  readonly ways: SafetyNetDependencies['ways'];
  /** Tell whether the next hops of those ways are there. */
  readonly neighbours: SafetyNetDependencies['neighbours'];
  readonly bpf?: Bpf;
  readonly openSafetyNet?: (source: SafetyNetSource, dependencies: SafetyNetDependencies) => SafetyNet;
  /** Milliseconds that only grow. */
  readonly now?: () => number;
}

type SafetyNet = Pick<KernelSafetyNet, 'refresh' | 'remove' | 'release'>;

/**
 * Loads the program, with the maps of an agent before this one where there are any; attaches nothing yet. An error says in
 * one line why there is no kernel path here.
 */
export function openTcDatapath(dependencies: TcDependencies): KernelDatapath {
  const { objectPath, bpf } = dependencies;
  return succeed(dependencies) ?? run(dependencies, loadObject(objectPath, bpf));
}

/** Goes on where an agent before this one has stopped; undefined where there is none, or that cannot be. */
function succeed(dependencies: TcDependencies): TcDatapath | undefined {
  const { log, objectPath, links, filters, bpf = libbpf } = dependencies;
  const found = findPredecessor(links(), filters, bpf);
  if (!found) return undefined;
  try {
    if ('obstacle' in found) throw new Error(found.obstacle);
    return run(dependencies, loadSuccessor(objectPath, found.left, bpf));
  } catch (error) {
    const what = 'the program that an agent before this one has left is replaced, its counters and tables are not kept';
    log.info(`${what}: ${(error as Error).message}`);
    return undefined;
  } finally {
    if ('left' in found) found.left.close();
  }
}

function run(dependencies: TcDependencies, object: BpfObject): TcDatapath {
  try {
    const datapath = new TcDatapath(dependencies, object);
    if (object.lessened) dependencies.log.warn(lessenedMaps(object.sizes));
    return datapath;
  } catch (error) {
    object.close();
    throw error;
  }
}

/** What the kernel path tells of itself beside what every datapath does. */
export interface KernelDatapath extends Datapath {
  /**
   * The downstreams that an agent before this one has left to a listener, as formatAddress writes them; undefined where
   * there are none, and as soon as the listener has a table of ours.
   */
  left(listener: Listener, family: Family): ReadonlySet<string> | undefined;
  /** The interfaces, of those that still exist, on which that agent had such a listener; as long, and else none. */
  leftLinks(listener: Listener): readonly Interface[];
}

class TcDatapath implements KernelDatapath {
  readonly mode = 'tc_ebpf';
  readonly #deps: TcDependencies;
  readonly #bpf: Bpf;
  readonly #now: () => number;
  readonly #object: BpfObject;
  readonly #listeners = new Map<string, KernelListener>();
  readonly #addresses: MapMirror;
  readonly #binds: MapMirror;
  readonly #peers: MapMirror;
  readonly #ports: FlagsMirror;
  /** The node's own addresses; the same object as long as they are the same. */
  #local: ReadonlySet<string> = new Set();
  /** By index of the interface. */
  readonly #attachments = new Map<number, Attachment>();
  readonly #handoverUntil: number;
  readonly #alerts: LogLimiter;
  readonly #safetyNet: SafetyNet;
  readonly #lease: Lease;
  #isSwept = false;

  constructor(dependencies: TcDependencies, object: BpfObject) {
    const { bpf = libbpf, now = clockNow } = dependencies;
    this.#deps = dependencies;
    this.#bpf = bpf;
    this.#now = now;
    this.#object = object;
    this.#addresses = new MapMirror(object.addresses);
    this.#binds = new MapMirror(object.binds);
    this.#peers = new MapMirror(object.peers);
    this.#ports = new FlagsMirror(object.ports);
    if (object.adopted) this.#adopt();
    this.#lease = new Lease(object, dependencies.leaseSecs, bpf);
    this.#handoverUntil = now() + HANDOVER_MS;
    const { log, filters, ways, neighbours } = dependencies;
    const { openSafetyNet = (...args) => new KernelSafetyNet(...args) } = dependencies;
    this.#alerts = new LogLimiter({ log, now, timer: setTimer });
    this.#safetyNet = openSafetyNet(
      { ring: object.safetyNet, bytes: object.sizes.SAFETY_NET, outProgram: object.outProgram },
      {
        bpf,
        filters,
        ways,
        neighbours,
        now,
        timer: setTimer,
        alerts: this.#alerts,
        listener: (row) => this.#inRow(row),
      },
    );
  }

  apply(blueprint: Blueprint): readonly Problem[] {
    const stay = blueprint.listeners.filter(({ listener }) => this.#listeners.has(listener.name));
    const leaving = this.#listeners.size - stay.length;
    const free = this.#object.sizes.STATS - this.#listeners.size;
    // Those that leave go last, for they may have their bind from one that comes; only where room is short, they go first.
    if (leaving > 0 && blueprint.listeners.length - stay.length > free) this.#make({ ...blueprint, listeners: stay });
    return this.#make(blueprint);
  }

  counters(): readonly ListenerCounters[] {
    return [...this.#listeners.values()].flatMap((one) => {
      const counters = one.counters();
      return counters ? [{ ...counters, mode: this.mode }] : [];
    });
  }

  left({ name }: Listener, family: Family): ReadonlySet<string> | undefined {
    return this.#listeners.get(name)?.left(family);
  }

  leftLinks({ name }: Listener): readonly Interface[] {
    const one = this.#listeners.get(name);
    return one ? this.#deps.links().filter(({ index }) => one.isLeftOn(index)) : [];
  }

  /** Renews the lease, and has the maps know all that is known here. */
  beat(): void {
    this.#lease.renew();
    for (const one of this.#listeners.values()) one.keep();
  }

  remove(): void {
    for (const [index, attachment] of this.#attachments) this.#detach(index, attachment);
    this.#safetyNet.remove();
    this.#close();
  }

  release(): void {
    for (const attachment of this.#attachments.values()) attachment.release();
    this.#safetyNet.release();
    this.beat();
    this.#close();
  }

  #close(): void {
    this.#alerts.close();
    for (const one of this.#listeners.values()) one.release();
    this.#object.close();
  }

  /** Goes on with what is in the maps; a listener whose note cannot be read begins anew when its blueprint comes. Throws. */
  #adopt(): void {
    for (const map of [this.#addresses, this.#binds, this.#peers, this.#ports]) map.adopt();
    const { listeners, tables } = this.#object;
    const left = readInheritance({ listeners, tables, binds: this.#binds }, this.#bpf);
    try {
      for (const one of left) this.#listeners.set(one.name, KernelListener.adopt(this.#object, one, this.#bpf));
    } catch (error) {
      closeTables(left, this.#bpf);
      throw error;
    }
    const names = [...this.#listeners.keys()];
    this.#deps.log.info('going on where an agent before this one has stopped', { listeners: names.length });
  }

  #make(blueprint: Blueprint): readonly Problem[] {
    const problems: Problem[] = blueprint.listeners.flatMap(({ absent }) => absent);
    const attempt = (map: string, write: () => void) => {
      try {
        write();
      } catch (error) {
        problems.push({ subject: `maps(${map})`, message: `failed to update the maps: ${this.#explain(error)}` });
      }
    };
    const local = new Set(blueprint.addresses.map(({ ip }) => ip));
    if (local.symmetricDifference(this.#local).size > 0) this.#local = local;
    const ready = blueprint.listeners.filter((one) => this.#applyTables(one, problems));
    const addresses = this.#addresses.diff(wantedAddresses(blueprint));
    const isHost = (ip: string) => this.#local.has(ip);
    const rowOf = ({ listener }: ListenerBlueprint) => this.#listeners.get(listener.name)!.row;
    const binds = this.#binds.diff(wantedBinds(ready, rowOf, isHost));
    const { onLink = () => undefined } = this.#deps;
    // Those that there is no room for are only not told from senders.
    const peers = this.#peers.diff(wantedPeers(ready, isHost, onLink).take(this.#object.sizes.PEERS));
    attempt('PEERS', peers.remove);
    attempt('PEERS', peers.add);
    attempt('ADDRESSES', addresses.add);
    attempt('BINDS', binds.add);
    const bound = ready.filter((one) => this.#isBound(one));
    const ports = this.#ports.diff(wantedPorts(bound));
    attempt('ports', ports.add);
    if (bound.length > 0) this.#safetyNet.refresh();
    this.#applyAttachments(blueprint.listeners, bound, problems);
    attempt('ports', ports.remove);
    attempt('BINDS', binds.remove);
    attempt('ADDRESSES', addresses.remove);
    attempt('TABLES', () => this.#leave(blueprint));
    return problems;
  }

  /** True if the listener has all its tables, so that its bind may lead to them. */
  #applyTables({ listener, interfaces, tables }: ListenerBlueprint, problems: Problem[]): boolean {
    const { log, egressLookup } = this.#deps;
    const { name } = listener;
    try {
      const one = this.#listeners.get(name) ?? this.#admit(listener);
      one.listener = listener;
      const egress = egressLookup(interfaces);
      const changed = tables.filter((table) => one.applyTable(table, this.#local, egress));
      if (changed.length > 0) {
        const endpoints = new Set(tables.flatMap((table) => table.slots)).size;
        log.info('updated tc_ebpf downstream set', { listener_id: listener.id, endpoints });
      }
    } catch (error) {
      const [subject, what] = this.#listeners.has(name)
        ? [`endpoints(${name})`, `failed to update the downstreams of listener "${name}"`]
        : [`listener(${name})`, `listener "${name}" has no place in the kernel path`];
      problems.push({ subject, message: `${what}: ${this.#explain(error)}` });
    }
    return this.#listeners.get(name)?.isReady ?? false;
  }

  /** Gives it the lowest row that is free. */
  #admit(listener: Listener): KernelListener {
    const taken = new Set([...this.#listeners.values()].map(({ row }) => row));
    let row = 0;
    while (taken.has(row)) row++;
    if (row >= this.#object.sizes.STATS) throw new Error(`there is room for ${row} listeners`);
    const one = KernelListener.open(this.#object, row, listener, this.#bpf);
    this.#listeners.set(listener.name, one);
    return one;
  }

  /** Listeners that the blueprint does not name any more, and tables of families that their binds do not take any more. */
  #leave({ listeners }: Blueprint): void {
    const names = new Set(listeners.map(({ listener }) => listener.name));
    for (const [name, one] of this.#listeners) {
      if (names.has(name)) {
        one.shrink();
        continue;
      }
      one.remove();
      this.#listeners.delete(name);
    }
  }

  #inRow(row: number): KernelListener | undefined {
    // Asked for each packet of the safety net: no copy.
    for (const one of this.#listeners.values()) if (one.row === row) return one;
    return undefined;
  }

  #isBound(one: ListenerBlueprint): boolean {
    return familiesOf(one.listener).some((family) => bindKeys(one, family).some((key) => this.#binds.has(key)));
  }

  #explain(error: unknown): string {
    const { message } = error as Error;
    return this.#object.lessened ? `${message}: ${lessenedMaps(this.#object.sizes)}` : message;
  }

  #applyAttachments(
    planned: readonly ListenerBlueprint[],
    bound: readonly ListenerBlueprint[],
    problems: Problem[],
  ): void {
    const links = (of: readonly ListenerBlueprint[]) =>
      new Map(of.flatMap(({ interfaces }) => interfaces.map((link) => [link.index, link] as const)));
    const wanted = links(bound);
    const waiting = links(planned.filter((one) => !bound.includes(one)));
    for (const [index, attachment] of this.#attachments) {
      if (wanted.has(index)) continue;
      this.#detach(index, attachment);
      this.#attachments.delete(index);
    }
    for (const link of wanted.values()) this.#attach(link, waiting.has(link.index), problems);
    if (!this.#isSwept) this.#sweep(new Set([...wanted.keys(), ...waiting.keys()]));
  }

  /** Takes off what an agent before this one has left on interfaces that no listener names any more. */
  #sweep(named: ReadonlySet<number>): void {
    const { log, links, filters } = this.#deps;
    for (const { index, name } of links()) {
      if (named.has(index)) continue;
      try {
        if (detachOurs(index, 'ingress', filters, this.#bpf)) {
          log.info('detached the program that an agent before this one has left', { interface: name });
        }
      } catch (error) {
        log.warn('failed to detach TC eBPF program', { interface: name, error: (error as Error).message });
      }
    }
    this.#isSwept = true;
  }

  #attach(link: Interface, waits: boolean, problems: Problem[]): void {
    const { log, filters } = this.#deps;
    try {
      if (this.#attachments.get(link.index)?.holds()) return;
      if (waits && !this.#object.adopted && this.#predecessorServes(link)) return;
      this.#attachments.set(link.index, attachClsact(this.#object.program, link, filters, this.#bpf));
      log.info('attached TC eBPF program to ingress', { interface: link.name });
    } catch (error) {
      problems.push({
        subject: `attachment(${link.name})`,
        message: `${attachFailure(this.#object.file, error)} interface="${link.name}"`,
      });
    }
  }

  /** A dead agent's program knows downstreams of listeners that we still wait for, so for a while it stays. */
  #predecessorServes({ index }: Interface): boolean {
    return this.#now() < this.#handoverUntil && hasPredecessor(this.#object.program, index, this.#deps.filters);
  }

  #detach(ifindex: number, attachment: Attachment): void {
    try {
      attachment.detach();
    } catch (error) {
      this.#deps.log.warn('failed to detach TC eBPF program', { ifindex, error: (error as Error).message });
    }
  }
}
