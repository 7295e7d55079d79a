/** How fast a stream may ask the API server again. */

export const BACKOFF = {
  /** The first pause after a failure, at most; doubled by each further one. */
  firstMs: 500,
  mostMs: 30_000,
  /** A server may ask for more, but not for hours. */
  mostRetryAfterMs: 120_000,
  /** List requests in any minute. */
  listsAMinute: 10,
} as const;

const MINUTE_MS = 60_000;

export interface BackoffDependencies {
  readonly now: () => number;
  /** From 0 to 1, as Math.random. */
  readonly random: () => number;
}

export class Backoff {
  readonly #deps: BackoffDependencies;
  #failures = 0;
  #lists: readonly number[] = [];

  constructor(dependencies: BackoffDependencies) {
    this.#deps = dependencies;
  }

  /** A list request goes out now. */
  listing(): void {
    const now = this.#deps.now();
    this.#lists = [...this.#lists.filter((at) => at > now - MINUTE_MS), now];
  }

  /** All was well for a while: the next failure is a first one again. */
  steady(): void {
    this.#failures = 0;
  }

  /**
   * Milliseconds to wait after a failure: exponential and jittered, so that the agents of a cluster do not come back in
   * step; at least what the server asks for; and never so short that a minute sees more than its share of lists.
   */
  afterFailure(retryAfterMs: number): number {
    const { now, random } = this.#deps;
    const most = Math.min(BACKOFF.mostMs, BACKOFF.firstMs * 2 ** this.#failures);
    this.#failures++;
    const jittered = most * (0.5 + random() / 2);
    const asked = Math.min(retryAfterMs, BACKOFF.mostRetryAfterMs) * (1 + random() / 10);
    const full =
      this.#lists.length >= BACKOFF.listsAMinute ? this.#lists.at(-BACKOFF.listsAMinute)! + MINUTE_MS - now() : 0;
    return Math.max(jittered, asked, full);
  }
}
