/** Time as the agent takes it: a test has a clock that stands still. Nothing else of the agent asks for a timer. */

/** Runs `task` once after so many milliseconds; the function returned calls it off. */
export type Timer = (milliseconds: number, task: () => void) => () => void;

export const setTimer: Timer = (milliseconds, task) => {
  const timer = setTimeout(task, milliseconds);
  return () => clearTimeout(timer);
};

/** Milliseconds that only grow. */
export const now = () => performance.now();
