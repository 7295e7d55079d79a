/** A byte stream cut into lines, wherever its chunks begin and end. */

const NEWLINE = 0x0a;

/** More than any API object: etcd takes 1.5 MiB. */
const LONGEST_LINE = 16 << 20;

export class LineSplitter {
  readonly #onLine: (line: string) => void;
  #parts: Buffer[] = [];
  #length = 0;

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  /** Takes the next bytes. A line is decoded only when it is whole, so no character can be cut. Throws RangeError. */
  push(chunk: Buffer): void {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      this.#add(chunk.subarray(start, end));
      this.#flush();
      start = end + 1;
    }
    this.#add(chunk.subarray(start));
  }

  #add(part: Buffer): void {
    if (part.length === 0) return;
    this.#length += part.length;
    if (this.#length > LONGEST_LINE) throw new RangeError(`a line of more than ${LONGEST_LINE} bytes`);
    this.#parts.push(part);
  }

  #flush(): void {
    const [only, ...more] = this.#parts;
    const line = more.length === 0 ? only : Buffer.concat(this.#parts, this.#length);
    this.#parts = [];
    this.#length = 0;
    if (line) this.#onLine(line.toString('utf8'));
  }
}
