/**
 * The userspace datapath: for each listener sockets on its address and what forwards from them, worker threads or, as
 * the safety net under a listener of the kernel path, this thread. Tables are swapped whole; when `apply` returns,
 * nothing goes by the old ones.
 */
import { type Family, formatAddress } from '../../address.ts';
import { now, setTimer } from '../../clock.ts';
import { SystemError } from '../../ffi/errno.ts';
import type { Log } from '../../log.ts';
import { LogLimiter } from '../../log-limit.ts';
import { familiesOf, type Listener, type SlotTable } from '../../model.ts';
import type { Blueprint, Datapath, ListenerBlueprint, ListenerCounters, Problem } from '../datapath.ts';
import { UserspaceListener } from './listener.ts';
import { type IsHost, isHostAddress, isOccupied, withoutLoops } from './loops.ts';
import { ListenerOpener } from './open-listener.ts';
import { buildSnapshot, sameSnapshot, sameTables } from './snapshot.ts';
import type { StartThread } from './workers/pool.ts';

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
  readonly #opener: ListenerOpener;
  readonly #listeners: ReadonlyMap<number, UserspaceListener>;
  /** The tables that each listener had last: a blueprint may leave out what it does not change. */
  readonly #tables = new Map<number, Map<Family, SlotTable>>();
  /** What lacks here for as long as we run. */
  readonly #said = new Set<string>();
  /** Listeners of the kernel path without a safety net, by id. */
  readonly #alerts: LogLimiter;
  #generation = 0;

  constructor({ log, listeners, isSafetyNet = () => false, startThread }: UserspaceDependencies) {
    this.#log = log;
    this.#alerts = new LogLimiter({ log, now, timer: setTimer });
    this.#isSafetyNet = isSafetyNet;
    const once = (level: 'info' | 'warn', line: string) => this.#once(level, line);
    this.#opener = new ListenerOpener({ log, once, isSafetyNet, startThread });
    this.#listeners = new Map(listeners.map((listener) => [listener.id, new UserspaceListener(listener)]));
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
    for (const [id, served] of this.#listeners) if (!wanted.has(id)) served.close();
    return problems;
  }

  counters(): readonly ListenerCounters[] {
    return [...this.#listeners.values()].map((served) => served.counters());
  }

  /** Told to stop all at once, the workers of many listeners take no longer than those of one. */
  close(): void {
    for (const served of this.#listeners.values()) served.stop();
    for (const served of this.#listeners.values()) served.close();
    this.#alerts.close();
  }

  #applyListener({ listener, tables }: ListenerBlueprint, { addresses }: Blueprint, problems: Problem[]): void {
    const served = this.#listeners.get(listener.id);
    const known = this.#remember(listener, tables);
    // As long as nobody knows where to, the senders had better hear that nobody listens.
    if (!served || familiesOf(listener).some((family) => !known.has(family))) return;
    const isHost = isHostAddress(addresses);
    const safetyNet = this.#isSafetyNet(listener);
    if (safetyNet && isOccupied(listener.bind, known.values(), isHost)) {
      const message = `listener "${listener.name}" has no safety net: a downstream on this host has its port`;
      this.#alerts.raise(String(listener.id), { message, level: 'info' });
      served.close();
      return;
    }
    const usable = [...known.values()].map((table) => this.#withoutLoops(listener, table, isHost, problems));
    const forwarders = this.#opener.forwarders(listener);
    const before = served.snapshot;
    const snapshot = buildSnapshot(++this.#generation, usable, addresses, forwarders, before);
    const news = !before || !sameTables(before, snapshot);
    if (!before) served.open(this.#opener.open(listener), snapshot);
    else if (!sameSnapshot(before, snapshot) || !served.settled) {
      // Where only the host's addresses are new, slots and counters stay.
      const { generation, hostAddresses } = snapshot;
      served.publish(news ? snapshot : { ...before, generation, hostAddresses });
    }
    if (!served.settled) {
      const message = `a worker of listener "${listener.name}" did not take the new downstreams in time`;
      problems.push({ subject: `endpoints(${listener.name})`, message });
    }
    if (safetyNet) {
      this.#alerts.resolve(String(listener.id), { message: `listener "${listener.name}" has its safety net again` });
    }
    if (safetyNet || !news) return;
    const endpoints = snapshot.downstreams.length;
    this.#log.info('updated userspace downstream set', { listener_id: listener.id, endpoints });
  }

  #remember({ id }: Listener, changed: readonly SlotTable[]): ReadonlyMap<Family, SlotTable> {
    const tables = this.#tables.get(id) ?? new Map<Family, SlotTable>();
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
    if (this.#isSafetyNet(listener)) this.#alerts.raise(String(listener.id), { message: `no safety net: ${message}` });
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
