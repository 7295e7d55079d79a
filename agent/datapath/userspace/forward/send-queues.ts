/** Runs of a batch sorted by the socket that they leave by, each queue in the order of its runs. */

const NONE = -1;

export class SendQueues {
  /** Queues that have runs, in the order in which they got their first. */
  count = 0;
  readonly queues: Int32Array;
  /** By run: the next one of its queue; NONE (-1) ends it. */
  readonly next: Int32Array;
  #head: Int32Array;
  #tail: Int32Array;

  /** For batches of so many runs, and so many queues to begin with. */
  constructor(runs: number, queues: number) {
    this.queues = new Int32Array(runs);
    this.next = new Int32Array(runs);
    this.#head = new Int32Array(queues).fill(NONE);
    this.#tail = new Int32Array(queues);
  }

  /** Makes room for so many queues; between two batches. */
  grow(queues: number): void {
    if (queues <= this.#head.length) return;
    this.#head = new Int32Array(queues).fill(NONE);
    this.#tail = new Int32Array(queues);
  }

  /** Puts a run at the end of a queue. */
  add(run: number, queue: number): void {
    this.next[run] = NONE;
    if (this.#head[queue] === NONE) {
      this.#head[queue] = run;
      this.queues[this.count++] = queue;
    } else {
      this.next[this.#tail[queue]!] = run;
    }
    this.#tail[queue] = run;
  }

  /** Takes a queue's first run, and empties the queue. */
  take(queue: number): number {
    const run = this.#head[queue]!;
    this.#head[queue] = NONE;
    return run;
  }
}
