/** Which endpoints may receive: those that are not down; all of a family where that would leave none. Pure. */
import type { Family } from '../address.ts';
import type { Endpoint } from '../model.ts';

export interface Choice {
  readonly downstreams: readonly Endpoint[];
  /** The families whose endpoints are all down. */
  readonly down: readonly Family[];
}

/**
 * Each family has a slot table of its own, so each is judged by itself: a network that filters only ICMPv6 must not
 * empty the IPv6 table. `isDown` is asked by an endpoint's place in the list.
 */
export function chooseDownstreams(
  endpoints: readonly Endpoint[],
  isDown: (index: number) => boolean,
  failOpen: boolean,
): Choice {
  const live = endpoints.filter((_, index) => !isDown(index));
  const has = (some: readonly Endpoint[], family: Family) => some.some(({ address }) => address.family === family);
  const down = ([4, 6] as const).filter((family) => has(endpoints, family) && !has(live, family));
  if (live.length === endpoints.length) return { downstreams: endpoints, down };
  if (down.length === 0 || !failOpen) return { downstreams: live, down };
  const open = (endpoint: Endpoint) => down.includes(endpoint.address.family);
  return { downstreams: endpoints.filter((endpoint, index) => open(endpoint) || !isDown(index)), down };
}
