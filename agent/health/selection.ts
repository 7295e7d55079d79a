/**
 * Which endpoints may receive: those that are not down; all of a family where that would leave none; and where none of a
 * family is ready, those that answer all the same. Pure, and told by counts, so that one endpoint's news costs the same
 * however many others there are.
 */
import { BOTH_FAMILIES, type Family } from '../address.ts';
import type { Endpoint } from '../model.ts';
import type { Condition } from './state.ts';

/** What is worth a remark. */
export interface FamilyStates {
  /** The families whose ready endpoints are all down. */
  readonly down: readonly Family[];
  /** The families that have unready endpoints alone, of which some answer: those are in use. */
  readonly lastResort: readonly Family[];
  /** The families that have unready endpoints alone, none of which has answered: none is in use. */
  readonly unserved: readonly Family[];
}

/**
 * Of one family. Each has a slot table of its own, so each is judged by itself: a network that filters only ICMPv6 must
 * not empty the IPv6 table.
 */
interface Count {
  ready: number;
  /** Of the ready ones, those that are not down. */
  live: number;
  unready: number;
  /** Of the unready ones, those that are up. */
  answering: number;
}

/** How many endpoints of a listener are in which condition, and what follows. */
export class Counts {
  readonly #failOpen: boolean;
  readonly #counts: Readonly<Record<Family, Count>> = { 4: nothing(), 6: nothing() };

  constructor(failOpen: boolean) {
    this.#failOpen = failOpen;
  }

  add({ address, unready }: Endpoint, condition: Condition, by: 1 | -1 = 1): void {
    const count = this.#counts[address.family];
    count[unready ? 'unready' : 'ready'] += by;
    if (unready && condition === 'up') count.answering += by;
    if (!unready && condition !== 'down') count.live += by;
  }

  /** Counts an endpoint anew after a round; true if other endpoints may receive than before. */
  move(endpoint: Endpoint, before: Condition, after: Condition): boolean {
    const { family } = endpoint.address;
    const was = { chosen: this.isChosen(endpoint, before), down: this.isDown(family) };
    this.add(endpoint, before, -1);
    this.add(endpoint, after);
    const turnsOthers = this.#failOpen && was.down !== this.isDown(family) && this.#counts[family].ready > 1;
    return turnsOthers || was.chosen !== this.isChosen(endpoint, after);
  }

  /**
   * Of a ready endpoint somebody has said that it is well, so silence must be proven, and if all are silent the probes are
   * wrong. Of an unready one Kubernetes has said that it is not, so it must have answered, and there is no failing open.
   */
  isChosen({ address: { family }, unready }: Endpoint, condition: Condition): boolean {
    if (unready) return this.#counts[family].ready === 0 && condition === 'up';
    return condition !== 'down' || (this.isDown(family) && this.#failOpen);
  }

  isDown(family: Family): boolean {
    const { ready, live } = this.#counts[family];
    return ready > 0 && live === 0;
  }

  isLastResort(family: Family): boolean {
    const { ready, answering } = this.#counts[family];
    return ready === 0 && answering > 0;
  }

  isUnserved(family: Family): boolean {
    const { ready, unready, answering } = this.#counts[family];
    return ready === 0 && unready > 0 && answering === 0;
  }

  /** True for an endpoint that is not ready where others of its family are. */
  isStandby({ unready, address }: Endpoint): boolean {
    return unready === true && this.#counts[address.family].ready > 0;
  }

  /** How many of a family may receive. */
  chosen(family: Family): number {
    const { ready, live, answering } = this.#counts[family];
    if (ready === 0) return answering;
    return live === 0 && this.#failOpen ? ready : live;
  }

  families(): FamilyStates {
    return {
      down: BOTH_FAMILIES.filter((family) => this.isDown(family)),
      lastResort: BOTH_FAMILIES.filter((family) => this.isLastResort(family)),
      unserved: BOTH_FAMILIES.filter((family) => this.isUnserved(family)),
    };
  }
}

function nothing(): Count {
  return { ready: 0, live: 0, unready: 0, answering: 0 };
}

/** The endpoints that may receive; the same list where all of them may. */
export function chosenOf(
  endpoints: readonly Endpoint[],
  conditionOf: (index: number) => Condition,
  counts: Counts,
): readonly Endpoint[] {
  const chosen = endpoints.filter((endpoint, index) => counts.isChosen(endpoint, conditionOf(index)));
  return chosen.length === endpoints.length ? endpoints : chosen;
}
