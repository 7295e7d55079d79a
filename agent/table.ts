/** From downstreams to slot tables: pure but for the versions that they are known by, and all that weights cost is paid here, never per datagram. */
import type { Family } from './address.ts';
import { type Downstream, LIMITS, type SlotTable } from './model.ts';

/** Of the last table that was built. */
let version = 0;

/**
 * The slot table of one family: each downstream in as many slots as its weight over the greatest common divisor of all
 * weights, spread evenly (a downstream's k-th of w slots lies at (k + 1/2) / w of the round). Throws RangeError where
 * that takes more than LIMITS.slotsPerTable slots or there are more than LIMITS.downstreamsPerListener downstreams.
 */
export function buildTable(family: Family, downstreams: readonly Downstream[]): SlotTable {
  const ours = apart(downstreams.filter((downstream) => downstream.address.family === family));
  if (ours.length > LIMITS.downstreamsPerListener) {
    throw new RangeError(`${ours.length} downstreams, at most ${LIMITS.downstreamsPerListener} are possible`);
  }
  const { divisor, total } = slotsFor(ours.map(({ weight }) => weight));
  if (total > LIMITS.slotsPerTable) {
    throw new RangeError(`the weights make ${total} slots, at most ${LIMITS.slotsPerTable} are possible`);
  }
  if (total === ours.length) return { family, slots: ours, version: ++version };

  const placed = ours.flatMap((downstream, order) => {
    const count = downstream.weight / divisor;
    return Array.from({ length: count }, (_, k) => ({ downstream, order, at: (k + 0.5) / count }));
  });
  placed.sort((a, b) => a.at - b.at || a.order - b.order);
  return { family, slots: placed.map(({ downstream }) => downstream), version: ++version };
}

/**
 * Those of one node as far from each other as they can be: a node that sends cannot be given its own, and takes the next
 * slot. Else it would take the same few for all of them, and pass over all of them at once in everybody's walk.
 */
function apart(downstreams: readonly Downstream[]): readonly Downstream[] {
  const nodes = Map.groupBy(downstreams, (downstream) => downstream.node ?? downstream);
  if (nodes.size === downstreams.length) return downstreams;
  const placed = [...nodes.values()].flatMap((group) =>
    group.map((downstream, k) => ({ downstream, at: (k + 0.5) / group.length })),
  );
  return placed.sort((a, b) => a.at - b.at).map(({ downstream }) => downstream);
}

/** What all weights share, and how many slots they make without it. */
export function slotsFor(weights: readonly number[]): { readonly divisor: number; readonly total: number } {
  const divisor = weights.reduce(gcd, 0) || 1;
  return { divisor, total: weights.reduce((sum, weight) => sum + weight / divisor, 0) };
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}
