/**
 * The health of all downstreams: who is probed, who may receive, and what the operator hears of it. Without a prober
 * every downstream is `unknown`, which counts as in use.
 */
import { type Family, formatAddress } from '../address.ts';
import type { Health as HealthConfig } from '../config/load.ts';
import type { Log } from '../log.ts';
import type { Endpoint, Listener } from '../model.ts';
import { Troubles } from '../troubles.ts';
import { announceAllDown, announceRound, announceSent, remarkOf } from './announce.ts';
import { type Choice, chooseDownstreams } from './choice.ts';
import type { Standing } from './condition.ts';
import { Monitor, type Pace } from './monitor.ts';
import type { Hint, OpenProber, Prober } from './prober.ts';
import { type Entry, Roster } from './roster.ts';
import type { CountedEnd } from './round.ts';
import { firstDelay } from './schedule.ts';
import { Statistics } from './statistics.ts';

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
  /** False after failed probes, also while fail open keeps it in use. */
  readonly healthy: boolean;
}

export class Health {
  readonly statistics = new Statistics();
  readonly #with: HealthDependencies;
  readonly #pace: Pace;
  readonly #prober: Prober | undefined;
  readonly #neighbours: { close(): void } | undefined;
  readonly #roster: Roster;
  /** The families of a listener, by its id, whose endpoints are all down. */
  readonly #down = new Map<number, readonly Family[]>();
  readonly #troubles: Troubles;
  /** Why the last round of a monitor did not leave this host, where it did not. */
  readonly #unsent = new Map<Monitor, string>();
  #onChange = () => {};
  #opened = 0;

  constructor(dependencies: HealthDependencies) {
    const { config, clock, openProber } = dependencies;
    const { intervalSecs, timeoutSecs, fall, rise } = config;
    this.#with = dependencies;
    this.#troubles = new Troubles({ log: dependencies.log, ...clock });
    this.#pace = { ...clock, fall, rise, intervalMs: intervalSecs * 1000, timeoutMs: timeoutSecs * 1000 };
    this.#prober = openProber?.((address, hint) =>
      this.#hint(hint, (monitor) => formatAddress(monitor.address) === formatAddress(address)),
    );
    this.#neighbours = dependencies.watchNeighbours?.((ip) =>
      this.#hint('neighbour_failed', ({ address }) => address.ip === ip),
    );
    this.#roster = new Roster({ prober: this.#prober, open: (endpoint) => this.#open(endpoint) });
  }

  /** `onChange` is called whenever `choose` would answer differently from now on. */
  start(onChange: () => void): void {
    this.#onChange = onChange;
  }

  /**
   * The endpoints that may receive, out of all that the listener has. Those are probed from now on; what is known of one
   * is kept as long as some listener has it.
   */
  choose(listener: Listener, endpoints: readonly Endpoint[]): Choice {
    const entry = this.#roster.enter(listener, endpoints);
    this.#forgetUnsent();
    return this.#review(entry);
  }

  endpoints(): readonly EndpointHealth[] {
    return this.#roster
      .entries()
      .flatMap(({ listener, endpoints, monitors }) =>
        endpoints.map((endpoint, index) => ({ listener, endpoint, healthy: !isDown(monitors[index]) })),
      );
  }

  /** True while the listener's downstreams, or those of one family, are in use only because all of them are down. */
  failsOpen({ id }: Listener): boolean {
    return this.#with.config.failOpen && (this.#down.get(id)?.length ?? 0) > 0;
  }

  /** What an operator who asks for readiness should know though nothing of ours is broken. */
  remarks(): readonly string[] {
    const { obstacle, config } = this.#with;
    const remarks = obstacle === undefined ? [] : [`health: ${obstacle}`];
    for (const { listener } of this.#roster.entries()) {
      for (const family of this.#down.get(listener.id) ?? []) remarks.push(remarkOf(listener, family, config.failOpen));
    }
    return remarks;
  }

  close(): void {
    this.#neighbours?.close();
    this.#troubles.close();
    for (const monitor of this.#roster.monitors()) monitor.close();
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
    const concerned = this.#roster.monitors().filter(concerns);
    if (concerned.length > 0) this.statistics.hints[hint]++;
    for (const monitor of concerned) monitor.hint(hint);
  }

  #ended(monitor: Monitor, before: Standing, end: CountedEnd): void {
    const { log, config } = this.#with;
    const { protocol, failOpen } = config;
    this.statistics.ended(end);
    const after = monitor.standing;
    const moved = (before.condition === 'down') !== (after.condition === 'down');
    this.#noteUnsent(monitor, end);
    // The common case: nothing to say, and nothing to choose anew.
    if (!moved && end.outcome === 'answered') return;
    for (const entry of this.#roster.entries()) {
      const uses = entry.endpoints.filter((_, index) => entry.monitors[index] === monitor);
      if (uses.length === 0) continue;
      const { listener } = entry;
      const { down } = this.#choice(entry);
      for (const endpoint of uses) {
        const allDown = down.includes(endpoint.address.family);
        const thresholds = this.#pace;
        const news = { listener, endpoint, protocol, before, after, end, thresholds, allDown, failOpen };
        announceRound(log, this.#troubles, news);
      }
      this.#review(entry);
    }
    if (moved) this.#onChange();
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
    const monitors = new Set(this.#roster.monitors());
    for (const [monitor, cause] of this.#unsent) {
      if (monitors.has(monitor)) continue;
      this.#unsent.delete(monitor);
      this.#reviewCause(cause);
    }
  }

  #reviewCause(cause: string): void {
    if (![...this.#unsent.values()].includes(cause)) announceSent(this.#troubles, cause);
  }

  #choice({ endpoints, monitors }: Entry): Choice {
    return chooseDownstreams(endpoints, (index) => isDown(monitors[index]), this.#with.config.failOpen);
  }

  /** Chooses, and says so where the last downstream of a family has gone down or the first is back. */
  #review(entry: Entry): Choice {
    const choice = this.#choice(entry);
    const { listener } = entry;
    const before = this.#down.get(listener.id) ?? [];
    this.#down.set(listener.id, choice.down);
    for (const family of [4, 6] as const) {
      const down = choice.down.includes(family);
      if (down !== before.includes(family)) {
        announceAllDown(this.#troubles, listener, family, down, this.#with.config.failOpen);
      }
    }
    return choice;
  }
}

function isDown(monitor: Monitor | undefined): boolean {
  return monitor?.standing.condition === 'down';
}
