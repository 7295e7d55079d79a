/**
 * The health of all downstreams: who is probed, who may receive, and what the operator hears of it. Without a prober
 * every downstream is `unknown`, which counts as in use.
 */
import { formatAddress } from '../address.ts';
import type { Health as HealthConfig } from '../config/load.ts';
import type { Log } from '../log.ts';
import { LogLimiter } from '../log-limit.ts';
import type { Endpoint, Listener } from '../model.ts';
import { announceAllDown, announceRound, announceSent, announceUnready, remarksOf } from './messages.ts';
import { Monitor, type Pace } from './monitor.ts';
import type { Hint, OpenProber, Prober } from './prober.ts';
import type { CountedEnd } from './round.ts';
import { firstDelay } from './schedule.ts';
import { type Selection, selectDownstreams } from './selection.ts';
import { type Condition, type HealthState, UNKNOWN } from './state.ts';
import { Statistics } from './statistics.ts';
import { type Entry, TargetRegistry } from './target-registry.ts';

export interface HealthDependencies {
  readonly log: Log;
  readonly config: HealthConfig;
  readonly clock: Pick<Pace, 'timer' | 'now' | 'random'>;
  /** Absent: nothing is probed. */
  readonly openProber?: OpenProber;
  /** Calls back with the address of each neighbour that does not answer. */
  readonly watchNeighbours?: (onFailed: (ip: string) => void) => { close(): void };
  /** Why nothing is probed although the config asks for it. */
  readonly obstacle?: string;
}

/** One endpoint of one listener, as a scrape shows it. */
export interface EndpointHealth {
  readonly listener: Listener;
  readonly endpoint: Endpoint;
  /**
   * False after failed probes, also while fail open keeps it in use; of an unready one true only once it has answered, as
   * it is in use only then.
   */
  readonly healthy: boolean;
}

export class Health {
  readonly statistics = new Statistics();
  readonly #deps: HealthDependencies;
  readonly #pace: Pace;
  readonly #prober: Prober | undefined;
  readonly #neighbours: { close(): void } | undefined;
  readonly #registry: TargetRegistry;
  /** What each listener was told last, by its id. */
  readonly #choices = new Map<number, Selection>();
  readonly #alerts: LogLimiter;
  /** Why the last round of a monitor did not leave this host, where it did not. */
  readonly #unsent = new Map<Monitor, string>();
  #onChange = () => {};
  #opened = 0;

  constructor(dependencies: HealthDependencies) {
    const { config, clock, openProber } = dependencies;
    const { intervalSecs, timeoutSecs, fall, rise } = config;
    this.#deps = dependencies;
    this.#alerts = new LogLimiter({ log: dependencies.log, ...clock });
    this.#pace = { ...clock, fall, rise, intervalMs: intervalSecs * 1000, timeoutMs: timeoutSecs * 1000 };
    this.#prober = openProber?.((address, hint) =>
      this.#hint(hint, (monitor) => formatAddress(monitor.address) === formatAddress(address)),
    );
    this.#neighbours = dependencies.watchNeighbours?.((ip) =>
      this.#hint('neighbour_failed', ({ address }) => address.ip === ip),
    );
    this.#registry = new TargetRegistry({ prober: this.#prober, open: (endpoint) => this.#open(endpoint) });
  }

  /** `onChange` is called whenever `choose` would answer differently from now on. */
  start(onChange: () => void): void {
    this.#onChange = onChange;
  }

  /**
   * The endpoints that may receive, out of all that the listener has. Those are probed from now on, the unready ones too,
   * so that it is known whether they answer when they are the last; what is known of one is kept as long as some listener
   * has it, be it ready or not. The same downstreams are the same list.
   */
  select(listener: Listener, endpoints: readonly Endpoint[]): Selection {
    const entry = this.#registry.enter(listener, endpoints);
    this.#forgetUnsent();
    return this.#review(entry, this.#choice(entry));
  }

  endpoints(): readonly EndpointHealth[] {
    return this.#registry.entries().flatMap(({ listener, endpoints, monitors }) =>
      endpoints
        .map((endpoint, index) => ({
          listener,
          endpoint,
          healthy: isHealthy(endpoint, conditionOf(monitors[index])),
        }))
        .filter(({ endpoint }) => !this.#isStandby(listener, endpoint)),
    );
  }

  /** True while the listener's downstreams, or those of one family, are in use only because all of them are down. */
  failsOpen({ id }: Listener): boolean {
    return this.#deps.config.failOpen && (this.#choices.get(id)?.down.length ?? 0) > 0;
  }

  /** True while endpoints of the listener that are not ready are in use, because none of their family is. */
  isLastResort({ id }: Listener): boolean {
    return (this.#choices.get(id)?.lastResort.length ?? 0) > 0;
  }

  /** What an operator who asks for readiness should know though nothing of ours is broken. */
  remarks(): readonly string[] {
    const { obstacle, config } = this.#deps;
    const remarks = obstacle === undefined ? [] : [`health: ${obstacle}`];
    for (const { listener } of this.#registry.entries()) {
      const choice = this.#choices.get(listener.id);
      if (choice) remarks.push(...remarksOf(listener, choice, config.failOpen));
    }
    return remarks;
  }

  close(): void {
    this.#neighbours?.close();
    this.#alerts.close();
    for (const monitor of this.#registry.monitors()) monitor.close();
    this.#prober?.close();
  }

  #open({ address }: Endpoint): Monitor {
    const monitor: Monitor = new Monitor(
      {
        address,
        prober: this.#prober!,
        pace: this.#pace,
        onRound: (before, end) => this.#ended(monitor, before, end),
      },
      firstDelay(this.#opened++, this.#pace.intervalMs),
    );
    return monitor;
  }

  #hint(hint: Hint, concerns: (monitor: Monitor) => boolean): void {
    const concerned = this.#registry.monitors().filter(concerns);
    if (concerned.length > 0) this.statistics.hints[hint]++;
    for (const monitor of concerned) monitor.hint(hint);
  }

  #ended(monitor: Monitor, before: HealthState, end: CountedEnd): void {
    const { log, config } = this.#deps;
    const { protocol, failOpen } = config;
    this.statistics.ended(end);
    const after = monitor.state;
    this.#noteUnsent(monitor, end);
    // The common case: nothing to say, and nothing to choose anew.
    if (before.condition === after.condition && end.outcome === 'answered') return;
    let changed = false;
    for (const entry of this.#registry.entries()) {
      const uses = entry.endpoints.filter((_, index) => entry.monitors[index] === monitor);
      if (uses.length === 0) continue;
      const { listener } = entry;
      const choice = this.#choice(entry);
      for (const endpoint of uses) {
        const allDown = choice.down.includes(endpoint.address.family);
        const thresholds = this.#pace;
        const isStandby = this.#isStandby(listener, endpoint);
        const news = { listener, endpoint, protocol, before, after, end, thresholds, allDown, failOpen, isStandby };
        announceRound(log, this.#alerts, news);
      }
      const old = this.#choices.get(listener.id)?.downstreams;
      changed = this.#review(entry, choice).downstreams !== old || changed;
    }
    if (changed) this.#onChange();
  }

  #noteUnsent(monitor: Monitor, end: CountedEnd): void {
    const old = this.#unsent.get(monitor);
    if (end.outcome === 'unsent') this.#unsent.set(monitor, end.cause);
    else this.#unsent.delete(monitor);
    if (old !== undefined) this.#reviewCause(old);
  }

  /** Of monitors that nobody has any more. */
  #forgetUnsent(): void {
    if (this.#unsent.size === 0) return;
    const monitors = new Set(this.#registry.monitors());
    for (const [monitor, cause] of this.#unsent) {
      if (monitors.has(monitor)) continue;
      this.#unsent.delete(monitor);
      this.#reviewCause(cause);
    }
  }

  #reviewCause(cause: string): void {
    if (![...this.#unsent.values()].includes(cause)) announceSent(this.#alerts, cause);
  }

  #choice({ endpoints, monitors }: Entry): Selection {
    return selectDownstreams(endpoints, (index) => conditionOf(monitors[index]), this.#deps.config.failOpen);
  }

  /** Keeps a choice, and says so where the last downstream of a family has gone down or the first is back. */
  #review({ listener }: Entry, fresh: Selection): Selection {
    const { failOpen } = this.#deps.config;
    const before = this.#choices.get(listener.id);
    const same = before && isSame(before.downstreams, fresh.downstreams);
    const choice = same ? { ...fresh, downstreams: before.downstreams } : fresh;
    this.#choices.set(listener.id, choice);
    for (const family of [4, 6] as const) {
      announceAllDown(this.#alerts, listener, family, choice.down.includes(family), failOpen);
      announceUnready(this.#alerts, listener, family, choice, before);
    }
    return choice;
  }

  /** True for an endpoint that is not ready where others of its family are. */
  #isStandby({ id }: Listener, { unready, address }: Endpoint): boolean {
    const choice = this.#choices.get(id);
    return unready === true && ![...(choice?.lastResort ?? []), ...(choice?.unserved ?? [])].includes(address.family);
  }
}

function conditionOf(monitor: Monitor | undefined): Condition {
  return (monitor?.state ?? UNKNOWN).condition;
}

function isHealthy({ unready }: Endpoint, condition: Condition): boolean {
  return unready ? condition === 'up' : condition !== 'down';
}

function isSame(some: readonly Endpoint[], others: readonly Endpoint[]): boolean {
  return some === others || (some.length === others.length && some.every((one, index) => one === others[index]));
}
