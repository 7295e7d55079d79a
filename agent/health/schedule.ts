/** When a downstream is probed: spread over the interval, never in step, never later than promised. */

/** Share of the interval by which a round may come early, so that no two downstreams stay in step. */
const JITTER = 0.05;
/** What lies between the verdict and the new table: late timers, the reconciler's pause, the swap itself. */
const HEADROOM_MS = 150;
/** Fractional parts of its multiples lie evenly in [0, 1) however many there are (Knuth, TAOCP 6.4: golden ratio). */
const GOLDEN = 0.618_033_988_749_894_9;

/** Milliseconds to the first round of the `order`-th downstream, below the interval. */
export function firstDelay(order: number, intervalMs: number): number {
  return ((order * GOLDEN) % 1) * intervalMs;
}

/**
 * Milliseconds from the start of one round to the start of the next. Always less than the interval, so that a downstream
 * that dies is out of the table within interval + timeout. `random` is in [0, 1).
 */
export function nextDelay(intervalMs: number, random: number): number {
  return intervalMs - HEADROOM_MS - random * JITTER * intervalMs;
}
