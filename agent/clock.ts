/** The clock that goes by itself; a test has one that stands still. */
import type { Timer } from './reconciler.ts';

export const setTimer: Timer = (milliseconds, task) => {
  const timer = setTimeout(task, milliseconds);
  return () => clearTimeout(timer);
};

/** Milliseconds that only grow. */
export const now = () => performance.now();
