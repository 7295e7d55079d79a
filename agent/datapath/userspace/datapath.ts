/**
 * The userspace datapath: for each listener sockets on its address and what forwards from them, worker threads or, as
 * the safety net under a listener of the kernel path, this thread. Tables are swapped whole; when `apply` returns,
 * nothing goes by the old ones.
 */
import { formatAddress } from '../../address.ts';
import { now, setTimer } from '../../clock.ts';
import { SystemError } from '../../ffi/errno.ts';
import type { Log } from '../../log.ts';
import type { Listener, SlotTable } from '../../model.ts';
import { Troubles } from '../../troubles.ts';
import {
  type Blueprint,
  type Datapath,
  familiesOf,
  type ListenerBlueprint,
  type ListenerCounters,
  type Problem,
} from '../datapath.ts';
import { type IsHost, isHostAddress, isOccupied, withoutLoops } from './loops.ts';
import { Opener } from './opener.ts';
import type { StartThread } from './pool.ts';
import { Station } from './station.ts';
import { buildImage, sameImage, sameTables } from './table.ts';

export interface UserspaceDependencies {
  readonly log: Log;
  readonly listeners: readonly Listener[];
  /** True for a listener that the kernel path serves: it gets the safety net, any other one its worker threads. */
  readonly isSafetyNet?: (listener: Listener) => boolean;
  /** Starts a worker thread; what a test replaces. */
  readonly startThread?: StartThread;
}

/** Opens nothing yet: sockets and threads come with a listener's first tables. */
export function openUserspaceDatapath(dependencies: UserspaceDependencies): Datapath {
  return new UserspaceDatapath(dependencies);
}

class UserspaceDatapath implements Datapath {
  readonly mode = 'userspace';
  readonly #log: Log;
  readonly #isSafetyNet: (listener: Listener) => boolean;
  readonly #opener: Opener;
  readonly #stations: ReadonlyMap<number, Station>;
  /** The tables that each listener had last: a blueprint may leave out what it does not change. */
  readonly #tables = new Map<number, Map<4 | 6, SlotTable>>();
  /** What lacks here for as long as we run. */
  readonly #said = new Set<string>();
  /** Listeners of the kernel path without a safety net, by id. */
  readonly #troubles: Troubles;
  #generation = 0;

  constructor({ log, listeners, isSafetyNet = () => false, startThread }: UserspaceDependencies) {
    this.#log = log;
    this.#troubles = new Troubles({ log, now, timer: setTimer });
    this.#isSafetyNet = isSafetyNet;
    const once = (level: 'info' | 'warn', line: string) => this.#once(level, line);
    this.#opener = new Opener({ log, once, isSafetyNet, startThread });
    this.#stations = new Map(listeners.map((listener) => [listener.id, new Station(listener)]));
  }

  apply(blueprint: Blueprint): readonly Problem[] {
    const problems: Problem[] = [];
    for (const one of blueprint.listeners) {
      try {
        this.#applyListener(one, blueprint, problems);
      } catch (error) {
        this.#failed(one.listener, error as Error, problems);
      }
    }
    const wanted = new Set(blueprint.listeners.map(({ listener }) => listener.id));
    for (const [id, station] of this.#stations) if (!wanted.has(id)) station.close();
    return problems;
  }

  counters(): readonly ListenerCounters[] {
    return [...this.#stations.values()].map((station) => station.counters());
  }

  /** Told to stop all at once, the workers of many listeners take no longer than those of one. */
  close(): void {
    for (const station of this.#stations.values()) station.stop();
    for (const station of this.#stations.values()) station.close();
    this.#troubles.close();
  }

  #applyListener({ listener, tables }: ListenerBlueprint, { addresses }: Blueprint, problems: Problem[]): void {
    const station = this.#stations.get(listener.id);
    const known = this.#remember(listener, tables);
    // As long as nobody knows where to, the senders had better hear that nobody listens.
    if (!station || familiesOf(listener).some((family) => !known.has(family))) return;
    const isHost = isHostAddress(addresses);
    const safetyNet = this.#isSafetyNet(listener);
    if (safetyNet && isOccupied(listener.bind, known.values(), isHost)) {
      const message = `listener "${listener.name}" has no safety net: a downstream on this host has its port`;
      this.#troubles.happens(String(listener.id), { message, level: 'info' });
      station.close();
      return;
    }
    const usable = [...known.values()].map((table) => this.#withoutLoops(listener, table, isHost, problems));
    const forwarders = this.#opener.forwarders(listener);
    const before = station.image;
    const image = buildImage(++this.#generation, usable, addresses, forwarders, before);
    const news = !before || !sameTables(before, image);
    if (!before) station.open(this.#opener.open(listener), image);
    else if (!sameImage(before, image) || !station.settled) {
      // Where only the host's addresses are new, slots and counters stay.
      const { generation, hostAddresses } = image;
      station.publish(news ? image : { ...before, generation, hostAddresses });
    }
    if (!station.settled) {
      const message = `a worker of listener "${listener.name}" did not take the new downstreams in time`;
      problems.push({ subject: `endpoints(${listener.name})`, message });
    }
    if (safetyNet) {
      this.#troubles.isOver(String(listener.id), { message: `listener "${listener.name}" has its safety net again` });
    }
    if (safetyNet || !news) return;
    const endpoints = image.downstreams.length;
    this.#log.info('updated userspace downstream set', { listener_id: listener.id, endpoints });
  }

  #remember({ id }: Listener, changed: readonly SlotTable[]): ReadonlyMap<4 | 6, SlotTable> {
    const tables = this.#tables.get(id) ?? new Map<4 | 6, SlotTable>();
    this.#tables.set(id, tables);
    for (const table of changed) tables.set(table.family, table);
    return tables;
  }

  #withoutLoops({ name, bind }: Listener, table: SlotTable, isHost: IsHost, problems: Problem[]): SlotTable {
    const { table: usable, loops } = withoutLoops(bind, table, isHost);
    if (loops.length > 0) {
      const which = [...new Set(loops.map(formatAddress))].join(', ');
      const message = `downstream ${which} of listener "${name}" is the listener itself: left out`;
      problems.push({ subject: `endpoints(${name})`, message });
    }
    return usable;
  }

  /** A listener of the kernel path lives without its safety net, if loudly; any other one does not live. */
  #failed(listener: Listener, error: Error, problems: Problem[]): void {
    const message = explain(listener, error);
    if (this.#isSafetyNet(listener))
      this.#troubles.happens(String(listener.id), { message: `no safety net: ${message}` });
    else problems.push({ subject: `listener(${listener.name})`, message });
  }

  #once(level: 'info' | 'warn', line: string): void {
    if (this.#said.has(line)) return;
    this.#said.add(line);
    this.#log[level](line);
  }
}

function explain({ name, bind }: Listener, error: Error): string {
  if (!(error instanceof SystemError)) return error.message;
  const what = `failed to open listener "${name}" on ${formatAddress(bind)}: ${error.message}`;
  switch (error.code) {
    case 'EADDRINUSE':
      return `${what}: another process has the port`;
    case 'EACCES':
      return `${what}: ports below 1024 need the capability NET_BIND_SERVICE`;
    default:
      return what;
  }
}
