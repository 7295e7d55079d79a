/**
 * How long tests wait, in one place: times are written for an ordinary machine, and UDP_FANOUT_TEST_SLOWNESS=8 has all
 * of them eight times as long, for one that is emulated or shared. What is counted is never scaled.
 */
import { setTimeout as sleep } from 'node:timers/promises';

/** By how much all waits are longer than written; 1. */
export const SLOWNESS = slowness(process.env.UDP_FANOUT_TEST_SLOWNESS);

/** What so many milliseconds of an ordinary machine are here. */
export function patient(ms: number): number {
  return ms * SLOWNESS;
}

/** Lets so many milliseconds of an ordinary machine pass. For what must not happen; for all else there is `until`. */
export async function pause(ms: number): Promise<void> {
  await sleep(patient(ms));
}

export interface UntilOptions {
  /** Milliseconds of an ordinary machine after which it has failed; 5000. */
  readonly limit?: number;
  /** Milliseconds between two looks; 10. */
  readonly every?: number;
}

/** Waits for a condition, and returns what it gave; throws with `what` if it is still false or undefined at the end. */
export async function until<T>(
  what: string,
  condition: () => Promise<T | false | undefined> | T | false | undefined,
  { limit = 5000, every = 10 }: UntilOptions = {},
): Promise<T> {
  const end = performance.now() + patient(limit);
  for (;;) {
    const late = performance.now() > end;
    const found = await condition();
    if (found !== false && found !== undefined) return found;
    if (late) throw new Error(`${what}: not within ${patient(limit)} ms`);
    await sleep(every);
  }
}

function slowness(text = '1'): number {
  const factor = Number(text);
  if (!(factor >= 1 && factor <= 100))
    throw new Error(`UDP_FANOUT_TEST_SLOWNESS "${text}": want a number from 1 to 100`);
  return factor;
}
