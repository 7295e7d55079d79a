/** A trouble that goes on is said once, and again after five minutes: a log full of one line hides all others. */
const REPEAT_MS = 300_000;

export class Complaints {
  readonly #now: () => number;
  readonly #said = new Map<string, number>();

  constructor(now: () => number) {
    this.#now = now;
  }

  /** True if it is time to say this. */
  isDue(what: string): boolean {
    const now = this.#now();
    const last = this.#said.get(what);
    if (last !== undefined && now - last < REPEAT_MS) return false;
    for (const [other, at] of this.#said) if (now - at >= REPEAT_MS) this.#said.delete(other);
    this.#said.set(what, now);
    return true;
  }
}
