/** Timers that fire on the ticks of one clock: what is due at about the same time wakes the process once, not each by itself. */
import type { Timer } from '../clock.ts';

/** In an object, as one task may be set twice. */
interface Entry {
  readonly task: () => void;
}

interface Tick {
  readonly tasks: Set<Entry>;
  readonly cancel: () => void;
}

/** A timer that is up to half a tick early or late, and never within the call. */
export function onTicks(timer: Timer, now: () => number, tickMs: number): Timer {
  const ticks = new Map<number, Tick>();
  const open = (at: number): Tick => {
    const tasks = new Set<Entry>();
    const run = () => {
      ticks.delete(at);
      for (const { task } of tasks) {
        try {
          task();
        } catch (error) {
          // It is told as its own timer's would be, and the others of the tick run all the same.
          timer(0, () => {
            throw error;
          });
        }
      }
    };
    const tick = { tasks, cancel: timer(at * tickMs - now(), run) };
    ticks.set(at, tick);
    return tick;
  };
  return (milliseconds, task) => {
    const from = now();
    const at = Math.max(Math.round((from + milliseconds) / tickMs), Math.floor(from / tickMs) + 1);
    const tick = ticks.get(at) ?? open(at);
    const entry = { task };
    tick.tasks.add(entry);
    return () => {
      if (!tick.tasks.delete(entry) || tick.tasks.size > 0 || ticks.get(at) !== tick) return;
      ticks.delete(at);
      tick.cancel();
    };
  };
}
