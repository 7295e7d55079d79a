/** A clock that goes faster than the wall's, for tests in which minutes pass over a real network. */
import type { Timer } from '../../agent/clock.ts';

export function fastClock(speed: number): { now: () => number; timer: Timer } {
  return {
    now: () => performance.now() * speed,
    timer: (milliseconds, task) => {
      const timer = setTimeout(task, milliseconds / speed);
      return () => clearTimeout(timer);
    },
  };
}
