/**
 * One forwarder's counters in shared memory, and the word that says what it is at. They are doubles: exact up to 2^53
 * and, unlike BigInt, free of allocation; a 64-bit store is one store on x64 and arm64, so no reader sees half of one.
 */
import { REASON, REASONS } from '../reasons.ts';

const WORDS = { TURN: 0, ADOPTED: 1, GENERATION: 2, STOP: 3, LEFT: 4, READY: 5, TAKES: 6 } as const;
const CELLS = { RECEIVED: 0, BYTES_RECEIVED: 1, FORWARDED: 2, BYTES_FORWARDED: 3, REASONS: 4 } as const;
const HEAD = 32;
const PAUSE_MS = 0.05;

export interface Totals {
  readonly received: number;
  readonly forwarded: number;
  readonly bytesReceived: number;
  readonly bytesForwarded: number;
  /** By index of REASONS. */
  readonly dropped: readonly number[];
}

export const NO_TOTALS: Totals = {
  received: 0,
  forwarded: 0,
  bytesReceived: 0,
  bytesForwarded: 0,
  dropped: REASONS.map(() => 0),
};

export function addTotals(a: Totals, b: Totals): Totals {
  return {
    received: a.received + b.received,
    forwarded: a.forwarded + b.forwarded,
    bytesReceived: a.bytesReceived + b.bytesReceived,
    bytesForwarded: a.bytesForwarded + b.bytesForwarded,
    dropped: a.dropped.map((count, index) => count + b.dropped[index]!),
  };
}

/** Both sides of it: the forwarder writes, the agent reads. Each makes one over the same memory. */
export class ForwarderState {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #cells: Float64Array;

  constructor(memory = new SharedArrayBuffer(HEAD + (CELLS.REASONS + REASONS.length) * 8)) {
    this.memory = memory;
    this.#words = new Int32Array(memory, 0, HEAD / 4);
    this.#cells = new Float64Array(memory, HEAD);
  }

  /** The forwarder has datagrams in hand; until `rest` its numbers do not add up and its table is in use. */
  work(): void {
    Atomics.add(this.#words, WORDS.TURN, 1);
  }

  rest(): void {
    Atomics.add(this.#words, WORDS.TURN, 1);
  }

  /** From before a receive until all that came is booked as received: who ends meanwhile takes along what nobody knows of. */
  take(): void {
    Atomics.store(this.#words, WORDS.TAKES, 1);
  }

  taken(): void {
    Atomics.store(this.#words, WORDS.TAKES, 0);
  }

  get takes(): boolean {
    return Atomics.load(this.#words, WORDS.TAKES) !== 0;
  }

  /** The forwarder receives from now on. */
  begin(): void {
    Atomics.store(this.#words, WORDS.READY, 1);
  }

  get ready(): boolean {
    return Atomics.load(this.#words, WORDS.READY) !== 0;
  }

  received(datagrams: number, bytes: number): void {
    this.#cells[CELLS.RECEIVED]! += datagrams;
    this.#cells[CELLS.BYTES_RECEIVED]! += bytes;
  }

  forwarded(datagrams: number, bytes: number): void {
    this.#cells[CELLS.FORWARDED]! += datagrams;
    this.#cells[CELLS.BYTES_FORWARDED]! += bytes;
  }

  dropped(reason: number, datagrams: number): void {
    this.#cells[CELLS.REASONS + reason]! += datagrams;
  }

  /** The generation that the agent wants, and the one that the forwarder has taken. */
  get generation(): number {
    return Atomics.load(this.#words, WORDS.GENERATION);
  }

  set generation(generation: number) {
    Atomics.store(this.#words, WORDS.GENERATION, generation);
  }

  adopt(generation: number): void {
    Atomics.store(this.#words, WORDS.ADOPTED, generation);
  }

  get stopping(): boolean {
    return Atomics.load(this.#words, WORDS.STOP) !== 0;
  }

  stop(): void {
    Atomics.store(this.#words, WORDS.STOP, 1);
  }

  /** Of a forwarder that is no more: what it had in hand is lost. */
  bookLost(): void {
    const { received, forwarded, dropped } = this.#copy();
    const lost = dropped.reduce((left, count) => left - count, received - forwarded);
    if (lost > 0) this.dropped(REASON.worker_died, lost);
  }

  /** The forwarder touches no socket any more. */
  get left(): boolean {
    return Atomics.load(this.#words, WORDS.LEFT) !== 0;
  }

  /** Also from the middle of its work; where it could not say so itself, its survivor does. */
  leave(): void {
    Atomics.and(this.#words, WORDS.TURN, ~1);
    Atomics.store(this.#words, WORDS.LEFT, 1);
  }

  /** The next one begins. */
  enter(): void {
    Atomics.store(this.#words, WORDS.LEFT, 0);
    Atomics.store(this.#words, WORDS.READY, 0);
    this.taken();
  }

  /**
   * Waits until no datagram can go by another table than the wanted one; false if that takes longer than `limit` ms.
   * The forwarder announces its turn before it looks at the generation, so one that rests now will see the new one.
   */
  settled(limit: number): boolean {
    const wanted = Atomics.load(this.#words, WORDS.GENERATION);
    return pollUntil(limit, () => this.#resting() || Atomics.load(this.#words, WORDS.ADOPTED) === wanted);
  }

  /** Counters that add up; those of the middle of a batch if `limit` ms bring no pause between two. */
  read(limit: number): Totals {
    let totals = this.#copy();
    pollUntil(limit, () => {
      const before = Atomics.load(this.#words, WORDS.TURN);
      totals = this.#copy();
      return before % 2 === 0 && Atomics.load(this.#words, WORDS.TURN) === before;
    });
    return totals;
  }

  #resting(): boolean {
    return Atomics.load(this.#words, WORDS.TURN) % 2 === 0;
  }

  #copy(): Totals {
    const cell = (index: number) => this.#cells[index]!;
    return {
      received: cell(CELLS.RECEIVED),
      forwarded: cell(CELLS.FORWARDED),
      bytesReceived: cell(CELLS.BYTES_RECEIVED),
      bytesForwarded: cell(CELLS.BYTES_FORWARDED),
      dropped: REASONS.map((_, index) => cell(CELLS.REASONS + index)),
    };
  }
}

const nobody = new Int32Array(new SharedArrayBuffer(4));

/** Asks until the answer is yes, pausing in between; false after `limit` ms. Blocks the thread. */
export function pollUntil(limit: number, done: () => boolean): boolean {
  const end = performance.now() + limit;
  while (!done()) {
    if (performance.now() > end) return false;
    Atomics.wait(nobody, 0, 0, PAUSE_MS);
  }
  return true;
}
