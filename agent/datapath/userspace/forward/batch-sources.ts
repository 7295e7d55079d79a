/** The different sources of one batch, numbered from 0 in the order in which they appear. */

import type { ReceiveBatch } from '../messages/receive-batch.ts';
import { hashSource } from '../sockets/client.ts';

export const SOURCE_WORDS = 5;

export class BatchSources {
  count = 0;
  /** By source: SOURCE_WORDS words, as ReceiveBatch.source has them. */
  readonly words: Uint32Array;
  readonly #cells: Int32Array;
  readonly #stamps: Int32Array;
  readonly #mask: number;
  #stamp = 0;
  #last = 0;

  /** For batches of so many messages. */
  constructor(messages: number) {
    // One more, where the source of the message at hand is written before it is known to be a new one.
    this.words = new Uint32Array((messages + 1) * SOURCE_WORDS);
    const cells = 2 ** Math.ceil(Math.log2(messages * 2));
    this.#mask = cells - 1;
    this.#cells = new Int32Array(cells);
    this.#stamps = new Int32Array(cells);
  }

  begin(): void {
    this.count = 0;
    this.#stamp = (this.#stamp + 1) | 0;
  }

  /** The number of a message's source. */
  of(batch: ReceiveBatch, message: number): number {
    batch.source(message, this.words, this.count * SOURCE_WORDS);
    if (this.count > 0 && this.#same(this.#last)) return this.#last;
    let cell = hashSource(this.words, this.count * SOURCE_WORDS) & this.#mask;
    while (this.#stamps[cell] === this.#stamp) {
      if (this.#same(this.#cells[cell]!)) {
        this.#last = this.#cells[cell]!;
        return this.#last;
      }
      cell = (cell + 1) & this.#mask;
    }
    this.#stamps[cell] = this.#stamp;
    this.#cells[cell] = this.count;
    this.#last = this.count++;
    return this.#last;
  }

  /** True if the source just written is this one. */
  #same(source: number): boolean {
    const a = source * SOURCE_WORDS;
    const b = this.count * SOURCE_WORDS;
    for (let word = 0; word < SOURCE_WORDS; word++) if (this.words[a + word] !== this.words[b + word]) return false;
    return true;
  }
}
