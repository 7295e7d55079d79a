/**
 * The health of all downstreams: who is probed, who can be reached, who may receive, and what the operator hears of it.
 * Without a prober every downstream that can be reached is `unknown`, which counts as in use.
 */
import { BOTH_FAMILIES, type SocketAddress } from '../address.ts';
import type { Health as HealthConfig } from '../config/load.ts';
import type { Guard } from '../lifetime.ts';
import type { Log } from '../log.ts';
import { LogLimiter } from '../log-limit.ts';
import type { Endpoint, EndpointSet, Listener } from '../model.ts';
import type { Reachability } from '../reachability/reachability.ts';
import { conditionOf, type Downstreams, type ListenerHealth, type Target, type Watched } from './listener-health.ts';
import {
  announceFamily,
  announcePath,
  announceRound,
  announceSent,
  forgetListener,
  forgetPath,
  remarksOf,
} from './messages.ts';
import { Monitor, type OnRound, type ProbeSettings } from './monitor.ts';
import type { Hint, OpenProber, Prober } from './prober.ts';
import { firstDelay } from './schedule.ts';
import { outBefore, UNKNOWN } from './state.ts';
import { Statistics } from './statistics.ts';
import { TargetRegistry } from './target-registry.ts';
import { UnsentCauses } from './unsent.ts';

export interface HealthDependencies {
  readonly log: Log;
  readonly config: HealthConfig;
  readonly clock: Pick<ProbeSettings, 'timer' | 'now' | 'random'>;
  /** What a socket or a notice calls is guarded by it; default none. */
  readonly guard?: Guard;
  /** Absent: nothing is probed. */
  readonly openProber?: OpenProber;
  /** Absent: nothing is known of the ways to downstreams. */
  readonly reachability?: Pick<Reachability, 'follow' | 'release' | 'lost' | 'tell'> | undefined;
  /** Whether an agent before this one had the listener and did not use the downstream; default no. */
  readonly wasOut?: (listener: Listener, address: SocketAddress) => boolean;
  /** Where the probes are counted; default its own. */
  readonly statistics?: Statistics;
  /** Why nothing is probed although the config asks for it. */
  readonly obstacle?: string;
}

/** One endpoint of one listener, as a scrape shows it. */
export interface EndpointHealth {
  readonly listener: Listener;
  readonly endpoint: Endpoint;
  /**
   * False after failed probes and while there is no way to it, also while fail open keeps it in use; of an unready one
   * true only once it has answered, as it is in use only then.
   */
  readonly healthy: boolean;
}

export class Health {
  readonly statistics: Statistics;
  readonly #deps: HealthDependencies;
  readonly #settings: ProbeSettings;
  readonly #prober: Prober | undefined;
  readonly #registry: TargetRegistry;
  readonly #alerts: LogLimiter;
  readonly #unsent = new UnsentCauses<Target>();
  #listeners: readonly Listener[] = [];
  #onChange = () => {};
  #opened = 0;

  constructor(dependencies: HealthDependencies) {
    const { config, clock, openProber, reachability, guard = (task) => task, wasOut = () => false } = dependencies;
    const { intervalSecs, timeoutSecs, fall, rise, failOpen } = config;
    this.#deps = dependencies;
    this.statistics = dependencies.statistics ?? new Statistics();
    this.#alerts = new LogLimiter({ log: dependencies.log, ...clock });
    this.#settings = { ...clock, fall, rise, intervalMs: intervalSecs * 1000, timeoutMs: timeoutSecs * 1000 };
    this.#prober = openProber?.(guard((address, hint) => this.#hint(address, hint)));
    reachability?.tell({ onChange: (ip) => this.#reached(ip), onMoved: () => this.#onChange() });
    this.#registry = new TargetRegistry({
      prober: this.#prober,
      reachability,
      failOpen,
      open: (address, onRound, wasOut) => this.#open(address, onRound, wasOut),
      wasOut,
      onRound: guard((target, before, end) => this.#ended(target, before, end)),
      onGone: (target) => {
        this.#noteUnsent(target, undefined);
        forgetPath(this.#alerts, target);
      },
    });
  }

  /** `onChange` is called whenever `select` would answer differently from now on. */
  start(onChange: () => void): void {
    this.#onChange = onChange;
  }

  /** These are all listeners that there are, known by their names: what is known of any other one is dropped. */
  keep(listeners: readonly Listener[]): void {
    const names = new Set(listeners.map(({ name }) => name));
    for (const { name } of this.#listeners) {
      if (names.has(name)) continue;
      this.#registry.drop(name);
      forgetListener(this.#alerts, name);
    }
    this.#listeners = listeners;
  }

  listeners(): readonly Listener[] {
    return this.#listeners;
  }

  /**
   * The endpoints that may receive, out of all that the listener has of the families that it takes. Those are probed from
   * now on, the unready ones too, so that it is known whether they answer when they are the last; what is known of one is
   * kept as long as some listener has it, be it ready or not. The same downstreams have the same version.
   */
  select(listener: Listener, endpoints: EndpointSet): Downstreams {
    const before = this.#registry.get(listener.name);
    const entered = this.#registry.enter(listener, endpoints);
    if (entered !== before) {
      if (!before) this.#announceOut(entered);
      for (const { target } of entered.watched) if (target.lost !== undefined) this.#announcePath(target);
      for (const family of BOTH_FAMILIES) announceFamily(this.#alerts, entered, family, this.#deps.config.failOpen);
    }
    return entered.selected();
  }

  endpoints(): readonly EndpointHealth[] {
    return [...this.#registry.listeners()].flatMap(({ listener, watched, counts }) =>
      watched
        .filter(({ endpoint }) => !counts.isStandby(endpoint))
        .map((one) => ({ listener, endpoint: one.endpoint, healthy: isHealthy(one) })),
    );
  }

  /** True while the listener's downstreams, or those of one family, are in use only because all of them are down. */
  failsOpen({ name }: Listener): boolean {
    const down = this.#registry.get(name)?.counts.families().down ?? [];
    return this.#deps.config.failOpen && down.length > 0;
  }

  /** True while endpoints of the listener that are not ready are in use, because none of their family is. */
  isLastResort({ name }: Listener): boolean {
    return (this.#registry.get(name)?.counts.families().lastResort.length ?? 0) > 0;
  }

  /** What an operator who asks for readiness should know though nothing of ours is broken. */
  remarks(): readonly string[] {
    const { obstacle, config } = this.#deps;
    const remarks = obstacle === undefined ? [] : [`health: ${obstacle}`];
    return [...remarks, ...[...this.#registry.listeners()].flatMap((one) => remarksOf(one, config.failOpen))];
  }

  close(): void {
    this.#alerts.close();
    for (const { monitor } of this.#registry.targets()) monitor?.close();
    this.#prober?.close();
  }

  #open(address: Monitor['address'], onRound: OnRound, wasOut: boolean): Monitor {
    const delay = firstDelay(this.#opened++, this.#settings.intervalMs);
    const state = wasOut ? outBefore(this.#settings) : UNKNOWN;
    return new Monitor({ address, prober: this.#prober!, settings: this.#settings, onRound }, delay, state);
  }

  #hint({ ip, port }: SocketAddress, hint: Hint): void {
    const concerned = this.#registry.at(ip).filter(({ address }) => address.port === port);
    if (concerned.length > 0) this.statistics.hints[hint]++;
    for (const { monitor } of concerned) monitor?.hint(hint);
  }

  /** What speaks against the ways to an address has changed. */
  #reached(ip: string): void {
    const { failOpen } = this.#deps.config;
    const lost = this.#deps.reachability?.lost(ip);
    const changes = this.#registry.at(ip).flatMap((target) => {
      const before = conditionOf(target);
      target.lost = lost;
      const after = conditionOf(target);
      const moved = [...target.users].map((one) => one.owner.move(one, before, after));
      this.#announcePath(target);
      for (const { owner, endpoint } of target.users) {
        announceFamily(this.#alerts, owner, endpoint.address.family, failOpen);
      }
      return moved;
    });
    if (changes.includes(true)) this.#onChange();
  }

  #announceOut({ listener, watched }: ListenerHealth): void {
    const endpoints = watched.filter(({ target }) => target.monitor?.state.condition === 'down').length;
    const line = 'downstreams that were not in use before this start are used once they answer';
    if (endpoints > 0) this.#deps.log.info(line, { listener: listener.name, endpoints });
  }

  #announcePath(target: Target): void {
    announcePath(this.#alerts, target, this.#deps.config.failOpen);
  }

  /** Costs the same however many endpoints the listeners have: of a Service that goes dark all of them come here. */
  #ended(target: Target, ...[before, end]: Parameters<OnRound>): void {
    const { log, config } = this.#deps;
    const { protocol, failOpen } = config;
    this.statistics.ended(end);
    const after = target.monitor!.state;
    this.#noteUnsent(target, end.outcome === 'unsent' ? end.cause : undefined);
    // What cannot be reached stays down whatever is known of its probes.
    const isMoved = before.condition !== after.condition && target.lost === undefined;
    // The common case: nothing to say, and nothing to select anew.
    if (!isMoved && end.outcome === 'answered') return;
    const changes = isMoved
      ? [...target.users].map((one) => one.owner.move(one, before.condition, after.condition))
      : [];
    for (const { owner, endpoint } of target.users) {
      const { listener, counts } = owner;
      const allDown = counts.isDown(endpoint.address.family);
      const thresholds = this.#settings;
      const isStandby = counts.isStandby(endpoint);
      const { lost } = target;
      const report = {
        listener,
        endpoint,
        protocol,
        before,
        after,
        end,
        thresholds,
        allDown,
        failOpen,
        isStandby,
        lost,
      };
      announceRound(log, this.#alerts, report);
      if (isMoved) announceFamily(this.#alerts, owner, endpoint.address.family, failOpen);
    }
    if (changes.includes(true)) this.#onChange();
  }

  #noteUnsent(target: Target, cause: string | undefined): void {
    const over = this.#unsent.note(target, cause);
    if (over !== undefined) announceSent(this.#alerts, over);
  }
}

function isHealthy({ endpoint, target }: Watched): boolean {
  const condition = conditionOf(target);
  return endpoint.unready ? condition === 'up' : condition !== 'down';
}
