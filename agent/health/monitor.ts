/** The life of one target: round after round, what they make of it, and hints that bring the next one forward. */
import type { SocketAddress } from '../address.ts';
import type { Timer } from '../clock.ts';
import type { Hint, Prober } from './prober.ts';
import { type CountedEnd, Round, type RoundDependencies, type RoundEnd } from './round.ts';
import { nextDelay } from './schedule.ts';
import { afterRound, type HealthState, type Thresholds, UNKNOWN } from './state.ts';

/** How often a target is probed, how strictly, and what time is measured by. */
export interface ProbeSettings extends Thresholds {
  readonly timer: Timer;
  readonly now: () => number;
  readonly random: () => number;
  readonly intervalMs: number;
  readonly timeoutMs: number;
}

export interface MonitorDependencies {
  readonly address: SocketAddress;
  readonly prober: Prober;
  readonly settings: ProbeSettings;
  readonly onRound: OnRound;
}

/** Called after each round that counts, with the state before it. */
export type OnRound = (before: HealthState, end: CountedEnd) => void;

export class Monitor {
  readonly address: SocketAddress;
  readonly #deps: MonitorDependencies;
  readonly #roundDeps: RoundDependencies;
  #state: HealthState;
  #round: Round | undefined;
  #startedAt = 0;
  #hintedAt = Number.NEGATIVE_INFINITY;
  #cancelNext: () => void;

  /** The first round begins after `delayMs`. */
  constructor(dependencies: MonitorDependencies, delayMs: number, state: HealthState = UNKNOWN) {
    this.#state = state;
    const { address, prober, settings } = dependencies;
    this.#deps = dependencies;
    this.#roundDeps = {
      ...settings,
      send: (callbacks) => prober.send(address, callbacks),
      onEnd: (end) => this.#ended(end),
    };
    this.address = address;
    this.#cancelNext = settings.timer(delayMs, () => this.#begin());
  }

  get state(): HealthState {
    return this.#state;
  }

  /** Probes at once, but not more than once an interval: whoever can forge a hint must not make us flood anybody. */
  hint(hint: Hint): void {
    const { now, intervalMs } = this.#deps.settings;
    this.#round?.hint(hint);
    if (this.#round || this.#state.condition === 'down' || now() - this.#hintedAt < intervalMs) return;
    this.#hintedAt = now();
    this.#cancelNext();
    this.#begin(hint);
  }

  close(): void {
    this.#cancelNext();
    this.#round?.cancel();
  }

  #begin(hint?: Hint): void {
    this.#startedAt = this.#deps.settings.now();
    this.#round = new Round(this.#roundDeps);
    this.#round.begin(hint);
  }

  #ended(end: RoundEnd): void {
    this.#round = undefined;
    const { settings, onRound } = this.#deps;
    const { timer, now, random, intervalMs } = settings;
    const wait = end.outcome === 'void' ? 0 : nextDelay(intervalMs, random()) - (now() - this.#startedAt);
    this.#cancelNext = timer(Math.max(0, wait), () => this.#begin());
    if (end.outcome === 'void') return;
    const before = this.#state;
    this.#state = afterRound(before, end.outcome, settings);
    onRound(before, end);
  }
}
