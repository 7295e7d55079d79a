/** A clock that stands still until it is told to go on. */
export class FakeTimer {
  now = 0;
  #tasks: { at: number; task: () => void }[] = [];

  readonly set = (milliseconds: number, task: () => void): (() => void) => {
    const entry = { at: this.now + milliseconds, task };
    this.#tasks.push(entry);
    return () => {
      this.#tasks = this.#tasks.filter((other) => other !== entry);
    };
  };

  readonly every = (milliseconds: number, task: () => void): (() => void) => {
    let cancel = () => {};
    const next = () => {
      cancel = this.set(milliseconds, () => {
        next();
        task();
      });
    };
    next();
    return () => cancel();
  };

  /** Lets time pass, running what falls due in its order. */
  advance(milliseconds: number): void {
    const end = this.now + milliseconds;
    for (;;) {
      const next = this.#tasks.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.#tasks = this.#tasks.filter((other) => other !== next);
      this.now = next.at;
      next.task();
    }
    this.now = end;
  }
}
