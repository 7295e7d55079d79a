/**
 * The agent's life: what runs in it, and what ends with it. An error in a timer, a callback or a closer is said, counted
 * and outlived: a ticker ticks again, a loop retries, and the closers that follow are called all the same.
 */
import { setTicker, setTimer, type Ticker, type Timer } from './clock.ts';
import type { Log } from './log.ts';
import { LogLimiter } from './log-limit.ts';

export interface LifetimeDependencies {
  readonly log: Log;
  readonly now: () => number;
  readonly timer?: Timer;
  readonly ticker?: Ticker;
}

/** Makes a task of one that never throws. */
export type Guard = <Args extends unknown[]>(task: (...args: Args) => void) => (...args: Args) => void;

/** What a part of the agent runs its timers and callbacks by. */
export interface Part {
  readonly timer: Timer;
  readonly ticker: Ticker;
  readonly guard: Guard;
  /** For an error that came up elsewhere, such as in a promise. */
  readonly onError: (error: unknown) => void;
}

interface Closer {
  readonly where: string;
  readonly close: () => unknown;
}

export class Lifetime {
  readonly #end = new AbortController();
  readonly #log: Log;
  readonly #timer: Timer;
  readonly #ticker: Ticker;
  readonly #alerts: LogLimiter;
  readonly #closers: Closer[] = [];
  readonly #errors = new Map<string, number>();

  constructor({ log, now, timer = setTimer, ticker = setTicker }: LifetimeDependencies) {
    this.#log = log;
    this.#timer = timer;
    this.#ticker = ticker;
    this.#alerts = new LogLimiter({ log, now, timer });
  }

  /** Aborted when the end begins: nothing that is guarded runs after that. */
  get signal(): AbortSignal {
    return this.#end.signal;
  }

  /** Errors by where they came up. */
  get errors(): ReadonlyMap<string, number> {
    return this.#errors;
  }

  /** What it names is guarded: no error leaves it, and nothing of it runs once the end has begun. */
  part(where: string): Part {
    const onError = (error: unknown) => this.#failed(where, error);
    const guard: Guard =
      (task) =>
      (...args) => {
        if (this.signal.aborted) return;
        try {
          task(...args);
          this.#alerts.resolve(where, { message: 'internal error is over', fields: { where } });
        } catch (error) {
          onError(error);
        }
      };
    const tillTheEnd = (cancel: () => void) => {
      this.signal.addEventListener('abort', cancel, { once: true });
      return () => {
        this.signal.removeEventListener('abort', cancel);
        cancel();
      };
    };
    return {
      timer: (milliseconds, task) => this.#timer(milliseconds, guard(task)),
      ticker: (milliseconds, task) => tillTheEnd(this.#ticker(milliseconds, guard(task))),
      guard,
      onError,
    };
  }

  /** Called at the end, in reverse order. */
  onClose(where: string, close: () => unknown): void {
    this.#closers.unshift({ where, close });
  }

  async close(): Promise<void> {
    this.#end.abort();
    for (const { where, close } of this.#closers.splice(0)) {
      try {
        await close();
      } catch (error) {
        this.#failed(where, error);
      }
    }
    this.#alerts.close();
  }

  #failed(where: string, error: unknown): void {
    this.#errors.set(where, (this.#errors.get(where) ?? 0) + 1);
    const { message, stack = '' } = error instanceof Error ? error : new Error(String(error));
    const fields = { where, error: message };
    this.#alerts.raise(where, { message: 'internal error', fields, level: 'error', cause: message });
    this.#log.debug(stack);
  }
}
