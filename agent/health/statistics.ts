/** What the probes came to, as numbers that a scrape reads. */

import { HINTS, type Hint } from './prober.ts';
import type { CountedEnd } from './round.ts';
import { OUTCOMES, type Outcome } from './state.ts';

/** Seconds, from a neighbour on the same switch to what no timeout should wait for. */
const BOUNDS = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2];

export interface RoundTrips {
  /** Upper bounds in seconds; beyond the last lies one more bucket. */
  readonly bounds: readonly number[];
  /** Of each bucket by itself, not of all below it. */
  readonly counts: readonly number[];
  readonly sum: number;
}

export class Statistics {
  readonly rounds: Record<Outcome, number> = zeroes(OUTCOMES);
  readonly hints: Record<Hint, number> = zeroes(HINTS);
  readonly #counts = new Array<number>(BOUNDS.length + 1).fill(0);
  #sum = 0;

  ended(end: CountedEnd): void {
    this.rounds[end.outcome]++;
    if (end.outcome !== 'answered') return;
    const seconds = end.roundTripMs / 1000;
    const bucket = BOUNDS.findIndex((bound) => seconds <= bound);
    this.#counts[bucket < 0 ? BOUNDS.length : bucket]!++;
    this.#sum += seconds;
  }

  roundTrips(): RoundTrips {
    return { bounds: BOUNDS, counts: [...this.#counts], sum: this.#sum };
  }
}

function zeroes<Name extends string>(names: readonly Name[]): Record<Name, number> {
  return Object.fromEntries(names.map((name) => [name, 0])) as Record<Name, number>;
}
