/**
 * Which endpoints may receive: those that are not down; all of a family where that would leave none; and where none of a
 * family is ready, those that answer all the same. Pure.
 */
import type { Family } from '../address.ts';
import type { Endpoint } from '../model.ts';
import type { Condition } from './state.ts';

export interface Selection {
  readonly downstreams: readonly Endpoint[];
  /** The families whose ready endpoints are all down. */
  readonly down: readonly Family[];
  /** The families that have unready endpoints alone, of which some answer: those are in use. */
  readonly lastResort: readonly Family[];
  /** The families that have unready endpoints alone, none of which has answered: none is in use. */
  readonly unserved: readonly Family[];
}

/**
 * Each family has a slot table of its own, so each is judged by itself: a network that filters only ICMPv6 must not
 * empty the IPv6 table. `conditionOf` is asked by an endpoint's place in the list.
 *
 * Of a ready endpoint somebody has said that it is well, so silence must be proven, and if all are silent the probes are
 * wrong. Of an unready one Kubernetes has said that it is not, so it must have answered, and there is no failing open.
 */
export function selectDownstreams(
  endpoints: readonly Endpoint[],
  conditionOf: (index: number) => Condition,
  failOpen: boolean,
): Selection {
  const counts = {
    4: { ready: 0, live: 0, unready: 0, answering: 0 },
    6: { ready: 0, live: 0, unready: 0, answering: 0 },
  };
  for (const [index, { address, unready }] of endpoints.entries()) {
    const count = counts[address.family];
    const condition = conditionOf(index);
    count[unready ? 'unready' : 'ready']++;
    if (unready && condition === 'up') count.answering++;
    if (!unready && condition !== 'down') count.live++;
  }
  const isChosen = ({ address, unready }: Endpoint, index: number) => {
    const { ready, live } = counts[address.family];
    if (unready) return ready === 0 && conditionOf(index) === 'up';
    return conditionOf(index) !== 'down' || (live === 0 && failOpen);
  };
  const chosen = endpoints.filter(isChosen);
  const families = (are: (count: (typeof counts)[Family]) => boolean) =>
    ([4, 6] as const).filter((family) => are(counts[family]));
  return {
    downstreams: chosen.length === endpoints.length ? endpoints : chosen,
    down: families(({ ready, live }) => ready > 0 && live === 0),
    lastResort: families(({ ready, answering }) => ready === 0 && answering > 0),
    unserved: families(({ ready, unready, answering }) => ready === 0 && unready > 0 && answering === 0),
  };
}
