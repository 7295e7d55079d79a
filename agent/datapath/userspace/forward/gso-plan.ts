/**
 * Which datagrams of a batch leave in one send. A run is datagrams of one source to one downstream, in the order they
 * came, all of one size but the last, which may be shorter: what UDP_SEGMENT cuts up again into just those datagrams
 * (Documentation/networking/segmentation-offloads.rst). A datagram that does not fit its pair's open run starts a new
 * one and closes the old, so that no datagram ever overtakes another on its way from one source to one downstream.
 */

/** linux/udp.h, UDP_MAX_SEGMENTS; kernels from 6.9 on take more. */
export const MAX_SEGMENTS = 64;
/** Most that one IPv4 packet of UDP payload holds, and so one send. */
export const MAX_SEND_BYTES = 65507;

const NONE = -1;

/** Preallocated for batches of so many datagrams; `begin`, `add` each datagram, then read `runs` of them. */
export class GsoPlan {
  /** Runs of the batch, numbered in the order in which they began. */
  runs = 0;
  /** By run: its first datagram, its datagrams and bytes, the size of all but the last, and between whom. */
  readonly first: Int32Array;
  readonly count: Int32Array;
  readonly bytes: Int32Array;
  readonly segment: Int32Array;
  readonly source: Int32Array;
  readonly downstream: Int32Array;
  /** By datagram: the next one of its run. */
  readonly next: Int32Array;
  readonly #last: Int32Array;
  /** Open runs by source and downstream: a hash table that a new batch empties by counting `#stamp` on. */
  readonly #keys: Int32Array;
  readonly #open: Int32Array;
  readonly #stamps: Int32Array;
  readonly #mask: number;
  #stamp = 0;

  constructor(datagrams: number) {
    const array = () => new Int32Array(datagrams);
    this.first = array();
    this.count = array();
    this.bytes = array();
    this.segment = array();
    this.source = array();
    this.downstream = array();
    this.next = array();
    this.#last = array();
    const cells = 2 ** Math.ceil(Math.log2(datagrams * 2));
    this.#mask = cells - 1;
    this.#keys = new Int32Array(cells);
    this.#open = new Int32Array(cells);
    this.#stamps = new Int32Array(cells);
  }

  begin(): void {
    this.runs = 0;
    this.#stamp = (this.#stamp + 1) | 0;
  }

  /** Puts a datagram into its run; `limit` is the largest size that may be gathered on the way to this downstream. */
  add(datagram: number, size: number, source: number, downstream: number, limit: number): void {
    const cell = this.#cell(source, downstream);
    const run = this.#open[cell]!;
    this.next[datagram] = NONE;
    if (run !== NONE && this.#fits(run, size)) {
      this.next[this.#last[run]!] = datagram;
      this.#last[run] = datagram;
      this.count[run]!++;
      this.bytes[run]! += size;
      if (size < this.segment[run]!) this.#open[cell] = NONE;
      return;
    }
    const fresh = this.runs++;
    this.first[fresh] = datagram;
    this.#last[fresh] = datagram;
    this.count[fresh] = 1;
    this.bytes[fresh] = size;
    this.segment[fresh] = size;
    this.source[fresh] = source;
    this.downstream[fresh] = downstream;
    // An empty datagram leaves nothing to cut, so it goes alone.
    this.#open[cell] = size === 0 || size > limit ? NONE : fresh;
  }

  #fits(run: number, size: number): boolean {
    return (
      size !== 0 &&
      size <= this.segment[run]! &&
      this.count[run]! < MAX_SEGMENTS &&
      this.bytes[run]! + size <= MAX_SEND_BYTES
    );
  }

  /** The cell of a pair; an open run of NONE where the batch has none yet. */
  #cell(source: number, downstream: number): number {
    // Both are below 2^16: a batch has at most 1024 sources, a listener 2 * 4096 downstreams.
    const key = (source << 16) | downstream;
    let cell = (Math.imul(key, 0x9e3779b1) >>> 16) & this.#mask;
    while (this.#stamps[cell] === this.#stamp) {
      if (this.#keys[cell] === key) return cell;
      cell = (cell + 1) & this.#mask;
    }
    this.#stamps[cell] = this.#stamp;
    this.#keys[cell] = key;
    this.#open[cell] = NONE;
    return cell;
  }
}
