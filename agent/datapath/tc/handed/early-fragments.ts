/**
 * Fragments in any order, told apart by who sends them and their identification: those that come before the first wait
 * for it, since it alone has the ports; those behind it follow, or are lost with it. Bounded in time and in bytes.
 */

/** As the program remembers a first one (FRAGMENT_LIFETIME_NS). */
const LIFETIME_MS = 3000;
const MOST_BYTES = 4 << 20;
const MOST_KNOWN = 4096;

interface Waiting {
  readonly packets: Uint8Array[];
  readonly since: number;
}

interface Known<Way> {
  readonly way: Way;
  readonly since: number;
  /** A part of it could not be sent: the others are of no use. */
  lost: boolean;
}

export class EarlyFragments<Way> {
  readonly #now: () => number;
  /** Both in the order in which they came. */
  readonly #waiting = new Map<string, Waiting>();
  readonly #known = new Map<string, Known<Way>>();
  #bytes = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** The way of a first fragment is known; what has waited for it. */
  first(key: string, way: Way): readonly Uint8Array[] {
    this.#forgetOld();
    this.#know(key, way);
    return this.#take(key)?.packets ?? [];
  }

  /** The way that a first one went, and whether the datagram is lost. */
  known(key: string): Readonly<Known<Way>> | undefined {
    this.#forgetOld();
    return this.#known.get(key);
  }

  /** A part could not be sent; true if that is news. */
  lose(key: string, way: Way): boolean {
    const known = this.#known.get(key) ?? this.#know(key, way);
    const isNews = !known.lost;
    known.lost = true;
    return isNews;
  }

  /** Keeps a copy of a later one until the first comes. */
  keep(key: string, packet: Uint8Array): void {
    const waiting = this.#waiting.get(key) ?? { packets: [], since: this.#now() };
    waiting.packets.push(new Uint8Array(packet));
    this.#waiting.set(key, waiting);
    this.#bytes += packet.length;
    while (this.#bytes > MOST_BYTES) this.#take(this.#waiting.keys().next().value!);
  }

  #know(key: string, way: Way): Known<Way> {
    const known = { way, since: this.#now(), lost: false };
    this.#known.delete(key);
    this.#known.set(key, known);
    if (this.#known.size > MOST_KNOWN) this.#known.delete(this.#known.keys().next().value!);
    return known;
  }

  #take(key: string): Waiting | undefined {
    const waiting = this.#waiting.get(key);
    if (!waiting) return undefined;
    this.#waiting.delete(key);
    for (const { length } of waiting.packets) this.#bytes -= length;
    return waiting;
  }

  #forgetOld(): void {
    const limit = this.#now() - LIFETIME_MS;
    for (const [key, { since }] of this.#waiting) {
      if (since > limit) break;
      this.#take(key);
    }
    for (const [key, { since }] of this.#known) {
      if (since > limit) break;
      this.#known.delete(key);
    }
  }
}
