/**
 * What links that lead to downstreams, or led there once, have dropped on the way out. The kernel counts as long as there is
 * the link; what it says last, as the link goes, is kept by its name.
 */
import type { Host } from '../netlink/host.ts';
import type { Notice } from '../netlink/notices.ts';

/** Pods come and go for months, each with a link of its own. */
const MOST_GONE = 1024;
/** In whose place the oldest of them are counted together. */
const OTHERS = 'other';

interface Seen {
  readonly name: string;
  readonly packets: number;
}

export interface EgressDropsDependencies {
  readonly host: Pick<Host, 'links' | 'egressDrops'>;
  /** Index of each link that leads to a downstream now. */
  readonly ours: () => ReadonlySet<number>;
}

export class EgressDrops {
  readonly #deps: EgressDropsDependencies;
  /** By index, ours that were there when we looked last. */
  readonly #seen = new Map<number, Seen>();
  /** By name, in the order in which they went. */
  readonly #gone = new Map<string, number>();

  constructor(dependencies: EgressDropsDependencies) {
    this.#deps = dependencies;
  }

  /** A link changes, and may lead nowhere from now on; or it is gone, with its last count. */
  notice(notice: Notice): void {
    if (notice.kind !== 'link') return;
    const { ifindex, gone } = notice;
    const isOurs = this.#seen.has(ifindex) || this.#deps.ours().has(ifindex);
    if (!isOurs) return;
    if (gone) this.#end(ifindex, gone);
    else this.#know(ifindex);
  }

  /** By name, packets; no count goes back, also where a link of a name comes again. Throws SystemError. */
  read(): ReadonlyMap<string, number> {
    const drops = this.#deps.host.egressDrops();
    const links = new Map(this.#deps.host.links().map(({ index, name }) => [index, name]));
    for (const ifindex of this.#deps.ours()) this.#know(ifindex);
    const counts = new Map<string, number>();
    for (const [ifindex, last] of this.#seen) {
      const name = links.get(ifindex);
      // It went, and nobody has told.
      if (name === undefined) this.#end(ifindex, last);
      else this.#seen.set(ifindex, { name, packets: drops.get(ifindex) ?? last.packets });
    }
    for (const { name, packets } of this.#seen.values()) counts.set(name, packets);
    for (const [name, packets] of this.#gone) counts.set(name, (counts.get(name) ?? 0) + packets);
    return counts;
  }

  #know(ifindex: number): void {
    if (!this.#seen.has(ifindex)) this.#seen.set(ifindex, { name: '', packets: 0 });
  }

  #end(ifindex: number, last: Seen): void {
    const { packets = 0 } = this.#seen.get(ifindex) ?? {};
    this.#seen.delete(ifindex);
    // A queue's count, which may be more, goes without a word.
    const most = Math.max(packets, last.packets);
    if (last.name !== '') this.#retire(last.name, most);
    const [oldest] = [...this.#gone].find(([name]) => name !== OTHERS) ?? [];
    if (this.#gone.size <= MOST_GONE || oldest === undefined) return;
    const count = this.#gone.get(oldest)!;
    this.#gone.delete(oldest);
    this.#retire(OTHERS, count);
  }

  #retire(name: string, packets: number): void {
    const sum = (this.#gone.get(name) ?? 0) + packets;
    this.#gone.delete(name);
    this.#gone.set(name, sum);
  }
}
