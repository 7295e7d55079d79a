/** What the safety net did with one listener's datagrams. */
import { sum } from '../../counts.ts';
import type { Totals } from '../counters.ts';

/** Reasons that it has beside those of the program; of failed system calls it may have any of userspace's. */
const REASONS = ['no_route', 'mtu_exceeded', 'martian_source'];

/** What an agent after this one goes on from. */
export interface HandedCounts {
  readonly forwarded: number;
  readonly bytes: number;
  readonly lost: number;
  readonly dropped: Readonly<Record<string, number>>;
}

export class HandedTally {
  readonly #dropped = new Map<string, number>(REASONS.map((reason) => [reason, 0]));
  #forwarded = 0;
  #bytes = 0;
  /** Those that count as forwarded already. */
  #lost = 0;

  constructor(before?: HandedCounts) {
    if (!before) return;
    this.#forwarded = before.forwarded;
    this.#bytes = before.bytes;
    this.#lost = before.lost;
    for (const [reason, count] of Object.entries(before.dropped)) this.#dropped.set(reason, count);
  }

  get counts(): HandedCounts {
    const dropped = Object.fromEntries([...this.#dropped].filter(([, count]) => count > 0));
    return { forwarded: this.#forwarded, bytes: this.#bytes, lost: this.#lost, dropped };
  }

  forwarded(datagrams: number, bytes: number): void {
    this.#forwarded += datagrams;
    this.#bytes += bytes;
  }

  dropped(reason: string): void {
    this.#dropped.set(reason, (this.#dropped.get(reason) ?? 0) + 1);
  }

  lost(reason: string): void {
    this.#lost++;
    this.dropped(reason);
  }

  /** The program's totals and these together. */
  addTo(totals: Totals): Totals {
    return {
      ...totals,
      received: totals.received + this.#lost,
      forwarded: totals.forwarded + this.#forwarded,
      bytesForwarded: totals.bytesForwarded + this.#bytes,
      dropped: sum(totals.dropped, this.#dropped),
    };
  }
}
