/**
 * Datagrams by downstream that the table in use does not count: those of tables that were replaced, and those that went
 * past any table. So the sum over all downstreams stays what was forwarded.
 */

/** Pods come and go for months: what is remembered of those that are gone must not grow with them. */
const MOST_GONE = 1024;
/** In whose place the oldest of them are counted together. */
const OTHERS = 'other';

export class RetiredCounts {
  /** In the order in which they were in a table last. */
  readonly #counts = new Map<string, number>();
  #others = 0;

  /** Adds the counts of a table. Of all that are remembered, the oldest that are not `live` are folded into one. */
  add(counts: ReadonlyMap<string, number>, isLive: (downstream: string) => boolean): void {
    for (const [key, count] of counts) {
      const sum = (this.#counts.get(key) ?? 0) + count;
      this.#counts.delete(key);
      if (sum > 0) this.#counts.set(key, sum);
    }
    for (const [key, count] of this.#counts) {
      if (this.#counts.size <= MOST_GONE) return;
      if (isLive(key)) continue;
      this.#others += count;
      this.#counts.delete(key);
    }
  }

  /** Adds datagrams of which nobody knows any more to whom they went. */
  addOthers(datagrams: number): void {
    this.#others += datagrams;
  }

  /** All of them together. */
  get total(): number {
    return [...this.#counts.values()].reduce((sum, count) => sum + count, this.#others);
  }

  /** Takes out what is remembered of downstreams that are back. */
  take(isBack: (downstream: string) => boolean): ReadonlyMap<string, number> {
    const taken = new Map([...this.#counts].filter(([key]) => isBack(key)));
    for (const key of taken.keys()) this.#counts.delete(key);
    return taken;
  }

  /** Adds datagrams to a downstream of the table in use. */
  count(downstream: string, datagrams: number): void {
    this.#counts.set(downstream, (this.#counts.get(downstream) ?? 0) + datagrams);
  }

  /**
   * The counts of the table that is in use, each with what went through those before; and of the downstreams that are gone,
   * the oldest of them as `other`.
   */
  with(live: ReadonlyMap<string, number>): Record<'downstreams' | 'gone', ReadonlyMap<string, number>> {
    const downstreams = new Map([...live].map(([key, count]) => [key, count + (this.#counts.get(key) ?? 0)]));
    const gone = new Map([...this.#counts].filter(([key]) => !live.has(key)));
    if (this.#others > 0) gone.set(OTHERS, this.#others);
    return { downstreams, gone };
  }
}
