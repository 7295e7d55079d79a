/**
 * The userspace datapath: for each listener sockets on its address and what forwards from them, worker threads or, as
 * the safety net under a listener of the kernel path, this thread. Tables are swapped whole; when `apply` returns,
 * nothing goes by the old ones.
 */
import { formatAddress, ipBytes, isWildcard } from '../../address.ts';
import { now, setTimer } from '../../clock.ts';
import { SystemError } from '../../ffi/errno.ts';
import { cgroupLimits } from '../../kernel/cgroup.ts';
import type { Log } from '../../log.ts';
import { LogLimiter } from '../../log-limit.ts';
import { familiesOf, type Listener, type SlotTable } from '../../model.ts';
import type { Blueprint, Datapath, ListenerBlueprint, ListenerCounters, Problem } from '../datapath.ts';
import { UserspaceListener } from './listener.ts';
import { type IsHost, isHostAddress, isOccupied, withoutLoops } from './loops.ts';
import { type Opening, type OpenListenerOptions, openListener } from './open-listener.ts';
import { buildSnapshot, sameSnapshot, sameTables } from './snapshot.ts';
import { isBroadcast, type Senders } from './sockets/open.ts';
import { allowedCpus } from './workers/cpus.ts';
import { WorkerPool } from './workers/pool.ts';
import { affordableThreads } from './workers/pool-size.ts';
import type { StartThread } from './workers/pool-thread.ts';

export interface UserspaceDependencies {
  readonly log: Log;
  /** True for a listener that the kernel path serves: it gets the safety net, any other one its worker threads. */
  readonly isSafetyNet?: (listener: Listener) => boolean;
  /** Starts a worker thread; what a test replaces. */
  readonly startThread?: StartThread;
  /** Opens this thread's own sockets to send by; what a test in another network namespace replaces. */
  readonly senders?: Senders;
}

export interface UserspaceDatapath extends Datapath {
  /** Ends all listeners but these, which are served on as they are. */
  keepOnly(names: ReadonlySet<string>): void;
}

/** Opens nothing yet: sockets and threads come with a listener's first tables, and go with the listener. */
export function openUserspaceDatapath(dependencies: UserspaceDependencies): UserspaceDatapath {
  return new SocketDatapath(dependencies);
}

/** What mends it that a receiver on the host network has a wildcard listener's own port. */
const OTHER_PORT = 'give receivers on the host network another port';

class SocketDatapath implements UserspaceDatapath {
  readonly mode = 'userspace';
  readonly #log: Log;
  readonly #isSafetyNet: (listener: Listener) => boolean;
  readonly #pool: WorkerPool;
  readonly #senders: Senders | undefined;
  /** By name. */
  readonly #listeners = new Map<string, UserspaceListener>();
  /** What lacks here for as long as we run. */
  readonly #said = new Set<string>();
  #generation = 0;

  constructor({ log, isSafetyNet = () => false, startThread, senders }: UserspaceDependencies) {
    this.#log = log;
    this.#isSafetyNet = isSafetyNet;
    this.#pool = new WorkerPool({ log, start: startThread });
    this.#senders = senders;
  }

  apply(blueprint: Blueprint): readonly Problem[] {
    const problems: Problem[] = [];
    // The workers of all that is to be opened get ready at the same time.
    const begun = blueprint.listeners.map((one) => {
      const finish = this.#try(one.listener, problems, () => this.#begin(one, blueprint, problems));
      return () => this.#try(one.listener, problems, () => finish?.());
    });
    for (const finish of begun) finish();
    const wanted = new Set(blueprint.listeners.map(({ listener }) => listener.name));
    this.#forget([...this.#listeners.values()].filter(({ listener }) => !wanted.has(listener.name)));
    return problems;
  }

  counters(): readonly ListenerCounters[] {
    return [...this.#listeners.values()].map((served) => served.counters());
  }

  /** Threads and sockets end with the process. */
  beat(): void {}

  keepOnly(names: ReadonlySet<string>): void {
    this.#forget([...this.#listeners.values()].filter(({ listener }) => !names.has(listener.name)));
  }

  remove(): void {
    this.#forget([...this.#listeners.values()]);
    this.#pool.close();
  }

  /** Sockets and threads end with the process in any case: in good order, then. */
  release(): void {
    this.remove();
  }

  /** Told to stop all at once, the workers of many listeners take no longer than those of one. */
  #forget(gone: readonly UserspaceListener[]): void {
    for (const served of gone) served.stop();
    for (const served of gone) {
      served.close();
      served.alerts.close();
      this.#listeners.delete(served.listener.name);
    }
  }

  #try<T>(listener: Listener, problems: Problem[], work: () => T): T | undefined {
    try {
      return work();
    } catch (error) {
      this.#failed(listener, error as Error, problems);
      return undefined;
    }
  }

  /** Does what needs no waiting, and returns what is left to do; nothing where the listener is not to be served now. */
  #begin({ listener, tables }: ListenerBlueprint, blueprint: Blueprint, problems: Problem[]): (() => void) | undefined {
    const { name } = listener;
    const served = this.#served(listener);
    for (const table of tables) served.tables.set(table.family, table);
    const known = familiesOf(listener).map((family) => served.tables.get(family));
    // As long as nobody knows where to, the senders had better hear that nobody listens.
    if (!known.every((table) => table !== undefined)) return undefined;
    const isHost = isHostAddress(blueprint.addresses);
    const safetyNet = this.#isSafetyNet(listener);
    if (safetyNet && isOccupied(listener.bind, known, isHost)) {
      const message = `listener "${name}" has no safety net: a downstream on this host has its port`;
      // What another node's agent sends to that one is a wildcard listener's here, and may be spread again.
      const again = isWildcard(listener.bind)
        ? `, and gets only its share, unless that can be told, of what other nodes send to it: ${OTHER_PORT}`
        : '';
      served.alerts.raise('safety net', { message: message + again, level: again ? 'warn' : 'info' });
      served.close();
      return undefined;
    }
    const onlyIpv6 = hasIpv4Twin(listener, blueprint);
    const elsewhere = broadcastsOfOthers(listener, blueprint);
    const tellsDestination = elsewhere.length > 0;
    const terms = JSON.stringify([listener.bind, listener.source, listener.settings, safetyNet, onlyIpv6, elsewhere]);
    const isOpen = served.isOpen(terms);
    const threads = isOpen || safetyNet ? 1 : this.#threads(blueprint);
    const forwarders = isOpen ? served.forwarders : safetyNet ? 1 : listener.settings.workers || threads;
    const usable = known.map((table) => this.#withoutLoops(listener, table, isHost, problems));
    const before = served.snapshot;
    // One more, where this thread stands in for workers.
    const built = buildSnapshot(++this.#generation, usable, blueprint.addresses, forwarders + 1, before);
    const snapshot = { ...built, elsewhere };
    const news = !isOpen || !before || !sameTables(before, snapshot);
    const opening = isOpen
      ? undefined
      : this.#open(served, { safetyNet, onlyIpv6, tellsDestination, forwarders, threads, snapshot });
    return () => {
      if (opening) served.open(terms, this.#orClosed(served, opening.bind), snapshot);
      else if (!before || !sameSnapshot(before, snapshot) || !served.settled) {
        // Where only the host's addresses are new, slots and counters stay.
        const { generation, hostAddresses } = snapshot;
        served.publish(news ? snapshot : { ...before, generation, hostAddresses });
      }
      this.#say(served, { safetyNet, news }, problems);
    };
  }

  #say(
    { listener, snapshot, settled, alerts }: UserspaceListener,
    { safetyNet, news }: { safetyNet: boolean; news: boolean },
    problems: Problem[],
  ): void {
    const { id, name } = listener;
    if (!settled) {
      const message = `a worker of listener "${name}" did not take the new downstreams in time`;
      problems.push({ subject: `endpoints(${name})`, message });
    }
    const well = safetyNet ? 'has its safety net again' : 'needs no safety net: worker threads serve it';
    alerts.resolve('safety net', { message: `listener "${name}" ${well}` });
    if (safetyNet || !news) return;
    const endpoints = snapshot!.downstreams.length;
    this.#log.info('updated userspace downstream set', { listener_id: id, endpoints });
  }

  /** What is open on other terms serves on meanwhile; but where these cannot be had, not by tables that are old. */
  #open(
    served: UserspaceListener,
    wanted: Pick<
      OpenListenerOptions,
      'safetyNet' | 'onlyIpv6' | 'tellsDestination' | 'forwarders' | 'threads' | 'snapshot'
    >,
  ): Opening {
    const once = (level: 'info' | 'warn', line: string) => this.#once(level, line);
    const [log, pool, senders] = [this.#log, this.#pool, this.#senders];
    return this.#orClosed(served, () => openListener(served.listener, { ...wanted, log, once, pool, senders }));
  }

  #orClosed<T>(served: UserspaceListener, open: () => T): T {
    try {
      return open();
    } catch (error) {
      served.close();
      throw error;
    }
  }

  #served(listener: Listener): UserspaceListener {
    const { name } = listener;
    const alerts = () => new LogLimiter({ log: this.#log, now, timer: setTimer });
    const served = this.#listeners.get(name) ?? new UserspaceListener(listener, alerts());
    this.#listeners.set(name, served);
    served.listener = listener;
    return served;
  }

  /** As many as the machine and the control group leave to all listeners that have worker threads. */
  #threads({ listeners }: Blueprint): number {
    const threaded = listeners.map(({ listener }) => listener).filter((listener) => !this.#isSafetyNet(listener));
    const settings = threaded.map((listener) => listener.settings);
    return affordableThreads(settings, { cpus: allowedCpus().length, limits: cgroupLimits() });
  }

  #withoutLoops({ name, bind }: Listener, table: SlotTable, isHost: IsHost, problems: Problem[]): SlotTable {
    const { table: usable, loops } = withoutLoops(bind, table, isHost);
    if (loops.length > 0) {
      const which = [...new Set(loops.map(formatAddress))].join(', ');
      const message = `downstream ${which} of listener "${name}" is the listener itself: left out; ${OTHER_PORT}`;
      problems.push({ subject: `endpoints(${name})`, message });
    }
    return usable;
  }

  /** A listener of the kernel path lives without its safety net, if loudly; any other one does not live. */
  #failed(listener: Listener, error: Error, problems: Problem[]): void {
    const message = explain(listener, error);
    if (this.#isSafetyNet(listener)) {
      this.#served(listener).alerts.raise('safety net', { message: `no safety net: ${message}` });
    } else problems.push({ subject: `listener(${listener.name})`, message });
  }

  #once(level: 'info' | 'warn', line: string): void {
    if (this.#said.has(line)) return;
    this.#said.add(line);
    this.#log[level](line);
  }
}

/** Whether IPv4 of a listener on `[::]` is another one's: two such sockets would each get every broadcast. */
function hasIpv4Twin({ bind }: Listener, { listeners }: Blueprint): boolean {
  const isTwin = (other: Listener) => other.bind.ip === '0.0.0.0' && other.bind.port === bind.port;
  return bind.ip === '::' && listeners.some(({ listener }) => isTwin(listener));
}

/** Broadcast addresses that other listeners bind, as words: sockets on a wildcard and the same port get what is sent there, too. */
function broadcastsOfOthers({ bind }: Listener, { listeners }: Blueprint): readonly number[] {
  if (!isWildcard(bind)) return [];
  const others = listeners.map(({ listener }) => listener.bind).filter((other) => other.port === bind.port);
  return others
    .filter((other) => other.family === 4 && !isWildcard(other) && isBroadcast(other))
    .map(({ ip }) => new Uint32Array(ipBytes(4, ip).buffer)[0]!);
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
