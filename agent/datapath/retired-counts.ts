/** Datagrams by downstream of tables that were replaced, for as long as the downstream may come back. */
import { LIMITS } from '../model.ts';

/** Pods come and go for months: what is remembered of those that are gone must not grow with them. */
const MAX_RETIRED = 4 * LIMITS.downstreamsPerListener;

export class RetiredCounts {
  readonly #counts = new Map<string, number>();

  /** Adds the counts of a table. Of all that are remembered, those that are not `live` go where they are too many. */
  add(counts: ReadonlyMap<string, number>, isLive: (downstream: string) => boolean): void {
    for (const [key, count] of counts) this.#counts.set(key, (this.#counts.get(key) ?? 0) + count);
    if (this.#counts.size <= MAX_RETIRED) return;
    for (const key of this.#counts.keys()) if (!isLive(key)) this.#counts.delete(key);
  }

  /** The counts of the table that is in use, and for each of its downstreams what went through those before. */
  addTo(live: ReadonlyMap<string, number>): ReadonlyMap<string, number> {
    return new Map([...live].map(([key, count]) => [key, count + (this.#counts.get(key) ?? 0)]));
  }
}
