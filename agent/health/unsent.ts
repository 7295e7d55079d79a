/** Why probes do not leave this host, and for how many targets. */

export class UnsentCauses<Target> {
  readonly #causes = new Map<Target, string>();
  readonly #counts = new Map<string, number>();

  /** The target's last probes did not leave for this cause, or did; the cause that no target has any more, if there is one. */
  note(target: Target, cause: string | undefined): string | undefined {
    const old = this.#causes.get(target);
    if (old === cause) return undefined;
    if (cause === undefined) this.#causes.delete(target);
    else {
      this.#causes.set(target, cause);
      this.#counts.set(cause, (this.#counts.get(cause) ?? 0) + 1);
    }
    if (old === undefined) return undefined;
    const left = this.#counts.get(old)! - 1;
    if (left > 0) this.#counts.set(old, left);
    else this.#counts.delete(old);
    return left > 0 ? undefined : old;
  }
}
