/**
 * One loop's rhythm: at most so often, again after a pause where something failed, and at least so often. The model is
 * Kubernetes' BoundedFrequencyRunner (k8s.io/kubernetes/pkg/util/async), whose burst is one here.
 */
import type { Timer } from './clock.ts';

export interface Frequency {
  /** Between two passes, however many are asked for; the first of a quiet time is at once. */
  readonly leastMs: number;
  /** The pause after a pass that failed, doubled each time that the pass after the pause failed too. */
  readonly retryMs: { readonly first: number; readonly most: number };
  /** Between two passes that nobody asked for. */
  readonly resyncMs: number;
}

export class BoundedFrequencyRunner {
  readonly #pass: () => boolean;
  readonly #timer: Timer;
  readonly #frequency: Frequency;
  #cancelRest: (() => void) | undefined;
  #cancelNext: (() => void) | undefined;
  #asked = false;
  #retryMs: number;
  #closed = false;

  /** `pass` returns false, or throws, where it wants to be tried again. */
  constructor(pass: () => boolean, timer: Timer, frequency: Frequency) {
    this.#pass = pass;
    this.#timer = timer;
    this.#frequency = frequency;
    this.#retryMs = frequency.retryMs.first;
  }

  /** Asks for a pass: at once, or when the last one is long enough ago. */
  run(): void {
    this.#asked = true;
    if (!this.#closed && !this.#cancelRest) this.#now(false);
  }

  close(): void {
    this.#closed = true;
    this.#cancelRest?.();
    this.#cancelNext?.();
  }

  #now(isRetry: boolean): void {
    const { leastMs, retryMs, resyncMs } = this.#frequency;
    this.#asked = false;
    this.#cancelNext?.();
    this.#cancelRest?.();
    this.#cancelRest = this.#timer(leastMs, () => this.#rested());
    let done = false;
    try {
      done = this.#pass();
    } finally {
      // Passes that somebody asked for are no retries: a thousand of them make the pause no longer.
      if (done) this.#retryMs = retryMs.first;
      else if (isRetry) this.#retryMs = Math.min(this.#retryMs * 2, retryMs.most);
      if (!this.#closed) this.#cancelNext = this.#timer(done ? resyncMs : this.#retryMs, () => this.#now(!done));
    }
  }

  #rested(): void {
    this.#cancelRest = undefined;
    if (this.#asked) this.#now(false);
  }
}
