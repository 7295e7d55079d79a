/**
 * One loop from what is wanted to what is there. Events only trigger it; it coalesces them, builds a blueprint from the
 * config, the endpoints and the host, hands it to the datapath, and tries again what could not be done.
 */
import { now as clockNow, setTimer, type Timer } from './clock.ts';
import type { Blueprint, Datapath, ListenerBlueprint, Problem } from './datapath/datapath.ts';
import type { EndpointSource } from './discovery/endpoint-source.ts';
import type { Health } from './health/health.ts';
import type { Log } from './log.ts';
import { LogLimiter } from './log-limit.ts';
import { type Downstream, type Endpoint, familiesOf, type Listener } from './model.ts';
import type { Host } from './netlink/host.ts';
import { placeListener } from './placement.ts';
import { buildTable } from './table.ts';

export interface ReconcilerDependencies {
  readonly log: Log;
  readonly listeners: readonly Listener[];
  readonly source: EndpointSource;
  /** Which endpoints may receive; all that are ready without it. */
  readonly health?: Pick<Health, 'select'>;
  readonly host: Pick<Host, 'links' | 'addresses'>;
  readonly datapath: Datapath;
  readonly timer?: Timer;
  /** Milliseconds that only grow, as performance.now. */
  readonly now?: () => number;
}

/** At most 20 passes a second however many events there are; the first of a quiet time is at once. */
const SPACING_MS = 50;
const NOTHING: Built = { tables: [] };
const RETRY_MS = { first: 1000, most: 30_000 };

export class Reconciler {
  readonly #deps: ReconcilerDependencies;
  readonly #timer: Timer;
  readonly #alerts: LogLimiter;
  readonly #built = new Map<number, { readonly downstreams: readonly Downstream[]; readonly built: Built }>();
  #problems: ReadonlyMap<string, Problem> = new Map();
  #waiting: readonly Listener[] = [];
  #cancelPass: (() => void) | undefined;
  #cancelRetry: (() => void) | undefined;
  #resting = false;
  #again = false;
  #retryMs = RETRY_MS.first;
  #closed = false;

  constructor(dependencies: ReconcilerDependencies) {
    this.#deps = dependencies;
    const { log, timer = setTimer, now = clockNow } = dependencies;
    this.#timer = timer;
    this.#alerts = new LogLimiter({ log, timer, now });
    this.#waiting = dependencies.listeners;
  }

  /** Something may have changed. */
  trigger(): void {
    if (this.#closed) return;
    if (this.#resting) {
      this.#again = true;
      return;
    }
    this.#pass();
    this.#resting = true;
    this.#cancelPass = this.#timer(SPACING_MS, () => {
      this.#resting = false;
      if (!this.#again) return;
      this.#again = false;
      this.trigger();
    });
  }

  /** What keeps the agent from being ready, in the operator's words: `endpoints(syslog)`, `attachment(eth0)`. */
  unready(): readonly string[] {
    return [...this.#waiting.map(({ name }) => `endpoints(${name})`), ...this.#problems.keys()];
  }

  /** The listeners that receive, or will as soon as their endpoints are known. */
  running(): readonly Listener[] {
    const has = (subject: string) => this.#problems.has(subject);
    return this.#deps.listeners.filter(
      ({ name, mode, interfaces }) =>
        !has('host') &&
        !has(`listener(${name})`) &&
        // Only a listener that insists on the kernel path is nothing without an interface.
        (mode !== 'tc_ebpf' || interfaces.some((link) => !has(`attachment(${link})`))),
    );
  }

  close(): void {
    this.#closed = true;
    this.#cancelPass?.();
    this.#cancelRetry?.();
    this.#alerts.close();
  }

  #pass(): void {
    const problems = new Map<string, Problem>();
    for (const problem of this.#apply()) problems.set(problem.subject, problem);
    for (const { subject, message } of problems.values()) this.#alerts.raise(subject, { message, level: 'error' });
    for (const subject of this.#problems.keys()) {
      if (!problems.has(subject)) this.#alerts.resolve(subject, { message: 'recovered', fields: { subject } });
    }
    this.#problems = problems;
    this.#retry(problems.size > 0);
  }

  #apply(): readonly Problem[] {
    const { datapath } = this.#deps;
    try {
      const { blueprint, problems } = this.#blueprint();
      return [...problems, ...datapath.apply(blueprint)];
    } catch (error) {
      return [{ subject: 'host', message: `failed to reconcile: ${(error as Error).message}` }];
    }
  }

  #blueprint(): { blueprint: Blueprint; problems: readonly Problem[] } {
    const { host, listeners, source } = this.#deps;
    const links = host.links();
    const problems: Problem[] = [];
    const planned: ListenerBlueprint[] = [];
    const waiting: Listener[] = [];
    for (const listener of listeners) {
      const place = placeListener(listener, links);
      const endpoints = source.endpoints(listener);
      if (!endpoints) waiting.push(listener);
      const { tables, problem } = endpoints ? this.#tables(listener, endpoints) : NOTHING;
      // A listener that would take an overlay's traffic must not even have a socket.
      const refused = place.problems.some(({ subject }) => subject === `listener(${listener.name})`);
      if (!refused) planned.push({ listener, interfaces: place.interfaces, tables });
      problems.push(...place.problems, ...(problem ? [problem] : []));
    }
    this.#waiting = waiting;
    return { blueprint: { addresses: host.addresses(), listeners: planned }, problems };
  }

  /** Built once for each list of downstreams, so that a pass over many listeners costs only those that changed. */
  #tables(listener: Listener, endpoints: readonly Endpoint[]): Built {
    const downstreams = this.#choose(listener, endpoints);
    const known = this.#built.get(listener.id);
    if (known?.downstreams === downstreams) return known.built;
    const built = buildTables(listener, downstreams);
    this.#built.set(listener.id, { downstreams, built });
    return built;
  }

  /** What no table of the listener takes is not probed either. */
  #choose(listener: Listener, endpoints: readonly Endpoint[]): readonly Downstream[] {
    const { health } = this.#deps;
    const takes = ({ address }: Endpoint) => familiesOf(listener).includes(address.family);
    // The same list again is no news to health, so it is left as it is where all of it is taken.
    const taken = endpoints.every(takes) ? endpoints : endpoints.filter(takes);
    return health ? health.select(listener, taken).downstreams : taken.filter(({ unready }) => !unready);
  }

  /** A machine that does not fit now may fit later: an interface appears, memory is freed. */
  #retry(wanted: boolean): void {
    this.#cancelRetry?.();
    this.#cancelRetry = undefined;
    if (!wanted) {
      this.#retryMs = RETRY_MS.first;
      return;
    }
    this.#cancelRetry = this.#timer(this.#retryMs, () => this.trigger());
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MS.most);
  }
}

type Built = Pick<ListenerBlueprint, 'tables'> & { readonly problem?: Problem };

/** The slot tables of a listener's downstreams; none, which leaves what is there in use, where they cannot be built. */
function buildTables(listener: Listener, downstreams: readonly Downstream[]): Built {
  try {
    return { tables: familiesOf(listener).map((family) => buildTable(family, downstreams)) };
  } catch (error) {
    const message = `listener "${listener.name}": ${(error as Error).message}; its last downstreams stay in use`;
    return { tables: [], problem: { subject: `endpoints(${listener.name})`, message } };
  }
}
