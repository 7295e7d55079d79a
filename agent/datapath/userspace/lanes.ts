/** Runs of a batch sorted by the socket that they leave by, each lane in the order of its runs. */

const NONE = -1;

export class Lanes {
  /** Lanes that have runs, in the order in which they got their first. */
  count = 0;
  readonly lanes: Int32Array;
  /** By run: the next one of its lane; NONE (-1) ends it. */
  readonly next: Int32Array;
  #head: Int32Array;
  #tail: Int32Array;

  /** For batches of so many runs, and so many lanes to begin with. */
  constructor(runs: number, lanes: number) {
    this.lanes = new Int32Array(runs);
    this.next = new Int32Array(runs);
    this.#head = new Int32Array(lanes).fill(NONE);
    this.#tail = new Int32Array(lanes);
  }

  /** Makes room for so many lanes; between two batches. */
  grow(lanes: number): void {
    if (lanes <= this.#head.length) return;
    this.#head = new Int32Array(lanes).fill(NONE);
    this.#tail = new Int32Array(lanes);
  }

  /** Puts a run at the end of a lane. */
  add(run: number, lane: number): void {
    this.next[run] = NONE;
    if (this.#head[lane] === NONE) {
      this.#head[lane] = run;
      this.lanes[this.count++] = lane;
    } else {
      this.next[this.#tail[lane]!] = run;
    }
    this.#tail[lane] = run;
  }

  /** Takes a lane's first run, and empties the lane. */
  take(lane: number): number {
    const run = this.#head[lane]!;
    this.#head[lane] = NONE;
    return run;
  }
}
