/**
 * One loop from what is wanted to what is there. Events only trigger it; it coalesces them, builds a blueprint from the
 * config, the endpoints and the host, hands it to the datapath, and tries again what could not be done.
 */
import { isDeepStrictEqual } from 'node:util';
import { BoundedFrequencyRunner } from './bounded-frequency.ts';
import { now as clockNow, setTimer, type Timer } from './clock.ts';
import type { Blueprint, Datapath, ListenerBlueprint, Problem } from './datapath/datapath.ts';
import type { EndpointSource } from './discovery/endpoint-source.ts';
import type { Health } from './health/health.ts';
import type { Log } from './log.ts';
import { LogLimiter } from './log-limit.ts';
import { type Downstream, type EndpointSet, familiesOf, type Listener } from './model.ts';
import { ownAddresses } from './netlink/address.ts';
import type { Host } from './netlink/host.ts';
import type { Nodes } from './nodes.ts';
import { placeListener } from './placement.ts';
import { buildTable } from './table.ts';

export interface ReconcilerDependencies {
  readonly log: Log;
  readonly source: Pick<EndpointSource, 'want' | 'endpoints'>;
  readonly health: Pick<Health, 'keep' | 'select'>;
  readonly host: Pick<Host, 'links' | 'addresses'>;
  readonly datapath: Datapath;
  /** Where downstreams live. */
  readonly nodes?: Nodes;
  readonly timer?: Timer;
  /** Milliseconds that only grow, as performance.now. */
  readonly now?: () => number;
}

/** At most 20 passes a second; one in 30 s though nothing happens, since no notice of the kernel's is promised to come. */
const FREQUENCY = { leastMs: 50, retryMs: { first: 1000, most: 30_000 }, resyncMs: 30_000 };
const NOTHING: Built = { tables: [] };
const NOWHERE: Nodes = { version: '', of: () => undefined };

export class Reconciler {
  readonly #deps: ReconcilerDependencies;
  readonly #alerts: LogLimiter;
  readonly #runner: BoundedFrequencyRunner;
  /** By listener's name: what was built last, and of which downstreams. */
  readonly #built = new Map<string, Built & BuiltFrom>();
  #listeners: readonly Listener[] = [];
  #problems: ReadonlyMap<string, Problem> = new Map();
  /** Of the problems, those that are of interfaces that are not there. */
  #missing: ReadonlySet<string> = new Set();
  #waiting: readonly Listener[] = [];

  constructor(dependencies: ReconcilerDependencies) {
    const { log, timer = setTimer, now = clockNow } = dependencies;
    this.#deps = dependencies;
    this.#alerts = new LogLimiter({ log, timer, now });
    this.#runner = new BoundedFrequencyRunner(() => this.#pass(), timer, FREQUENCY);
  }

  /** From now on these listeners are wanted and no other ones; they are known by their names. */
  want(listeners: readonly Listener[]): void {
    const { source, health } = this.#deps;
    const before = new Set(this.#listeners.map(({ name }) => name));
    const names = new Set(listeners.map(({ name }) => name));
    const waited = new Set(this.#waiting.map(({ name }) => name));
    this.#waiting = listeners.filter(({ name }) => waited.has(name) || !before.has(name));
    for (const name of this.#built.keys()) if (!names.has(name)) this.#built.delete(name);
    this.#listeners = listeners;
    source.want(listeners);
    health.keep(listeners);
    this.#forgetProblems();
    this.trigger();
  }

  /** Something may have changed. */
  trigger(): void {
    this.#runner.run();
  }

  /** What keeps the agent from being ready, in the operator's words: `endpoints(syslog)`, `attachment(eth0)`. */
  unready(): readonly string[] {
    const problems = [...this.#problems.keys()].filter((subject) => !this.#isSpared(subject));
    return [...this.#waiting.map(({ name }) => `endpoints(${name})`), ...problems];
  }

  /** What an operator who asks for readiness should know though the agent does what it can: a line each. */
  remarks(): readonly string[] {
    const spared = [...this.#problems.values()].filter(({ subject }) => this.#isSpared(subject));
    const idle = this.#listeners.filter(({ name }) =>
      this.#built.get(name)?.tables.every(({ slots }) => slots.length === 0),
    );
    return [
      ...spared.map(({ subject, message }) => `${subject}: ${message}`),
      ...idle.map(({ name }) => `endpoints(${name}): none is in use, every datagram is dropped`),
    ];
  }

  /** Names of listeners whose endpoints are waited for, and of those that cannot be served for another reason. */
  unserved(): { readonly waiting: readonly string[]; readonly failing: readonly string[] } {
    const isFailing = ({ name }: Listener) => this.#problems.has('host') || this.#problems.has(`listener(${name})`);
    return {
      waiting: this.#waiting.map(({ name }) => name),
      failing: this.#listeners.filter(isFailing).map(({ name }) => name),
    };
  }

  /** The listeners that receive, or will as soon as their endpoints are known. */
  running(): readonly Listener[] {
    const has = (subject: string) => this.#problems.has(subject);
    return this.#listeners.filter(
      ({ name, mode, interfaces }) =>
        !has('host') &&
        !has(`listener(${name})`) &&
        // Only a listener that insists on the kernel path is nothing without an interface.
        (mode !== 'tc_ebpf' || interfaces.some((link) => !has(attachment(link)))),
    );
  }

  /**
   * True for an interface that is missing where each listener that names it has another one: the nodes of a DaemonSet differ,
   * and one that is never ready stops its roll-out.
   */
  #isSpared(subject: string): boolean {
    if (!this.#missing.has(subject)) return false;
    const users = this.#listeners.filter(({ interfaces }) => interfaces.some((link) => attachment(link) === subject));
    return users.every(({ interfaces }) => interfaces.some((link) => !this.#problems.has(attachment(link))));
  }

  close(): void {
    this.#runner.close();
    this.#alerts.close();
  }

  /** True if all is as it is wanted. A machine that does not fit now may fit later: an interface appears, memory is freed. */
  #pass(): boolean {
    const problems = new Map<string, Problem>();
    for (const problem of this.#apply()) problems.set(problem.subject, problem);
    for (const { subject, message } of problems.values()) this.#alerts.raise(subject, { message, level: 'error' });
    for (const subject of this.#problems.keys()) {
      if (!problems.has(subject)) this.#alerts.resolve(subject, { message: 'recovered', fields: { subject } });
    }
    this.#problems = problems;
    return problems.size === 0;
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
    const { host, source } = this.#deps;
    const links = host.links();
    const problems: Problem[] = [];
    const planned: ListenerBlueprint[] = [];
    const waiting: Listener[] = [];
    for (const listener of this.#listeners) {
      const place = placeListener(listener, links);
      const endpoints = source.endpoints(listener);
      if (!endpoints) waiting.push(listener);
      const { tables, problem } = endpoints ? this.#tables(listener, endpoints) : NOTHING;
      // A listener that would take an overlay's traffic must not even have a socket.
      const refused = place.problems.some(({ subject }) => subject === `listener(${listener.name})`);
      if (refused) problems.push(...place.problems);
      else planned.push({ listener, interfaces: place.interfaces, absent: place.problems, tables });
      if (problem) problems.push(problem);
    }
    this.#missing = new Set(planned.flatMap(({ absent }) => absent.map(({ subject }) => subject)));
    this.#waiting = waiting;
    return { blueprint: { addresses: ownAddresses(host.addresses(), links), listeners: planned }, problems };
  }

  /** Built once for each version, so that a pass over many listeners costs only those that changed. */
  #tables(listener: Listener, endpoints: EndpointSet): Built {
    const { health, nodes = NOWHERE } = this.#deps;
    const { version, downstreams } = health.select(listener, endpoints);
    const from = `${version} ${familiesOf(listener)}`;
    const known = this.#built.get(listener.name);
    if (known?.from === from && known.nodesVersion === nodes.version) return known;
    const nodesVersion = nodes.version;
    const at = downstreams.map((endpoint) => nodes.of(endpoint));
    const isSame = known?.from === from && isDeepStrictEqual(known.at, at);
    const built = isSame ? known : buildTables(listener, placed(downstreams, at));
    this.#built.set(listener.name, { ...built, from, nodesVersion, at });
    return built;
  }

  /** What only concerns listeners that are gone has not recovered: nobody asks for it any more. */
  #forgetProblems(): void {
    const subjects = this.#listeners.flatMap(({ name, interfaces }) => [
      `listener(${name})`,
      `endpoints(${name})`,
      ...interfaces.map(attachment),
    ]);
    const known = new Set(['host', ...subjects]);
    const gone = [...this.#problems.keys()].filter((subject) => !known.has(subject));
    for (const subject of gone) this.#alerts.forget(subject);
    this.#problems = new Map([...this.#problems].filter(([subject]) => known.has(subject)));
  }
}

const attachment = (link: string) => `attachment(${link})`;

type Built = Pick<ListenerBlueprint, 'tables'> & { readonly problem?: Problem };

/** What a table was built of: which downstreams, and where they live. */
interface BuiltFrom {
  readonly from: string;
  readonly nodesVersion: string;
  readonly at: readonly (string | undefined)[];
}

function placed(downstreams: readonly Downstream[], at: readonly (string | undefined)[]): readonly Downstream[] {
  return downstreams.map((downstream, index) => {
    const node = at[index];
    return node === undefined ? downstream : { ...downstream, node };
  });
}

/** The slot tables of a listener's downstreams; none, which leaves what is there in use, where they cannot be built. */
function buildTables(listener: Listener, downstreams: readonly Downstream[]): Built {
  try {
    return { tables: familiesOf(listener).map((family) => buildTable(family, downstreams)) };
  } catch (error) {
    const message = `listener "${listener.name}": ${(error as Error).message}; its last downstreams stay in use`;
    return { tables: [], problem: { subject: `endpoints(${listener.name})`, message } };
  }
}
