/** What the safety net did with one listener's datagrams. */
import { sum } from '../../counts.ts';
import type { Totals } from '../counters.ts';

/** Reasons that it has beside those of the program; of failed system calls it may have any of userspace's. */
const REASONS = ['no_route', 'mtu_exceeded', 'martian_source'];

/** What an agent after this one goes on from. */
export interface HandedCounts {
  readonly forwarded: number;
  readonly bytes: number;
  readonly dropped: Readonly<Record<string, number>>;
  readonly torn: Readonly<Record<string, number>>;
}

export class HandedTally {
  readonly #dropped = zeroes();
  readonly #torn = zeroes();
  #forwarded = 0;
  #bytes = 0;

  constructor(before?: HandedCounts) {
    if (!before) return;
    this.#forwarded = before.forwarded;
    this.#bytes = before.bytes;
    for (const [reason, count] of Object.entries(before.dropped)) this.#dropped.set(reason, count);
    for (const [reason, count] of Object.entries(before.torn)) this.#torn.set(reason, count);
  }

  get counts(): HandedCounts {
    const [dropped, torn] = [this.#dropped, this.#torn].map((counts) =>
      Object.fromEntries([...counts].filter(([, count]) => count > 0)),
    ) as [HandedCounts['dropped'], HandedCounts['torn']];
    return { forwarded: this.#forwarded, bytes: this.#bytes, dropped, torn };
  }

  forwarded(datagrams: number, bytes: number): void {
    this.#forwarded += datagrams;
    this.#bytes += bytes;
  }

  dropped(reason: string): void {
    add(this.#dropped, reason);
  }

  torn(reason: string): void {
    add(this.#torn, reason);
  }

  /** The program's totals and these together. */
  addTo(totals: Totals): Totals {
    return {
      ...totals,
      forwarded: totals.forwarded + this.#forwarded,
      bytesForwarded: totals.bytesForwarded + this.#bytes,
      dropped: sum(totals.dropped, this.#dropped),
      torn: sum(totals.torn, this.#torn),
    };
  }
}

function zeroes(): Map<string, number> {
  return new Map(REASONS.map((reason) => [reason, 0]));
}

function add(counts: Map<string, number>, reason: string): void {
  counts.set(reason, (counts.get(reason) ?? 0) + 1);
}
