/** Time as the agent takes it: a test has a clock that stands still. Nothing else of the agent asks for a timer. */

/** Runs `task` once after so many milliseconds; the function returned calls it off. */
export type Timer = (milliseconds: number, task: () => void) => () => void;

/** Runs `task` every so many milliseconds until the function returned is called. */
export type Ticker = Timer;

export const setTimer: Timer = (milliseconds, task) => {
  const timer = setTimeout(task, milliseconds);
  return () => clearTimeout(timer);
};

/** Does not keep the process alive. */
export const setTicker: Ticker = (milliseconds, task) => {
  const timer = setInterval(task, milliseconds).unref();
  return () => clearInterval(timer);
};

/** Milliseconds that only grow. */
export const now = () => performance.now();
