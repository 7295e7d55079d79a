/** What a worker thread and the agent tell each other in shared memory, whatever listeners the thread serves. */

const WORDS = { BEAT: 0, STOP: 1, LEFT: 2, NEWS: 3, GIVEN_UP: 4 } as const;

/** Both sides of it: each makes one over the same memory. */
export class ThreadState {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(memory = new SharedArrayBuffer(Object.keys(WORDS).length * 4)) {
    this.memory = memory;
    this.#words = new Int32Array(memory);
  }

  /** The thread begins a round. */
  beat(): void {
    Atomics.add(this.#words, WORDS.BEAT, 1);
  }

  /** Grows with every round; if it does not, the thread hangs. */
  get pulse(): number {
    return Atomics.load(this.#words, WORDS.BEAT);
  }

  /** The thread has loaded and bound all that it calls. */
  get ready(): boolean {
    return this.pulse !== 0;
  }

  get stopping(): boolean {
    return Atomics.load(this.#words, WORDS.STOP) !== 0;
  }

  stop(): void {
    Atomics.store(this.#words, WORDS.STOP, 1);
    this.tell();
  }

  /** Another one takes its place: should it go on after all, it ends with what it has in hand. */
  giveUp(): void {
    Atomics.store(this.#words, WORDS.GIVEN_UP, 1);
    this.tell();
  }

  /** The thread is to end. */
  get ends(): boolean {
    return this.stopping || Atomics.load(this.#words, WORDS.GIVEN_UP) !== 0;
  }

  /** Another number whenever there is something to look at: a message, or that something is to stop. */
  get news(): number {
    return Atomics.load(this.#words, WORDS.NEWS);
  }

  tell(): void {
    Atomics.add(this.#words, WORDS.NEWS, 1);
    Atomics.notify(this.#words, WORDS.NEWS);
  }

  /** Waits for other news than these, at most so long. */
  waitForNews(known: number, milliseconds: number): void {
    Atomics.wait(this.#words, WORDS.NEWS, known, milliseconds);
  }

  /** The thread is out of its loop and touches no socket any more. */
  get left(): boolean {
    return Atomics.load(this.#words, WORDS.LEFT) !== 0;
  }

  leave(): void {
    Atomics.store(this.#words, WORDS.LEFT, 1);
  }

  /** The next one begins. */
  enter(): void {
    Atomics.store(this.#words, WORDS.LEFT, 0);
    Atomics.store(this.#words, WORDS.BEAT, 0);
    Atomics.store(this.#words, WORDS.GIVEN_UP, 0);
  }
}
