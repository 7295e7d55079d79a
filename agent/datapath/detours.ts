/**
 * Where a datagram goes whose sender is the downstream whose turn it is, or the host that this lives on: a stack takes its
 * own address as a source for a forgery. To a slot that is neither; there may be none.
 */
import type { SocketAddress } from '../address.ts';

/** A slot's downstream. */
export interface Stop {
  readonly address: SocketAddress;
  /** The address of the host that it lives on; absent where nobody knows, and where it is this host. */
  readonly node?: string | undefined;
}

/** True if the sender is the downstream or its node. */
export function isOwnSource({ address, node }: Stop, sender: string): boolean {
  return address.ip === sender || node === sender;
}

/** The stop, without a node that is this host: from here its pods are reached past its stack. */
export function seenFromHere<T extends Stop>(stop: T, isHost: (ip: string) => boolean): T {
  return stop.node !== undefined && isHost(stop.node) ? { ...stop, node: undefined } : stop;
}

/**
 * For each slot, how many right behind it are no better for a sender that cannot be given this one: those of its node, or
 * where there is no other node those of its address.
 */
export function skipsOf(stops: readonly Stop[]): Uint16Array {
  const byNode = distances(stops.map(hostOf));
  const byAddress = distances(stops.map(({ address }) => address.ip));
  return Uint16Array.from(stops, (_, at) => (byNode[at] || byAddress[at] || 1) - 1);
}

/** For each key, how far it is to the next that is another one, round the end; 0 if there is none. */
function distances(keys: readonly string[]): Uint32Array {
  const { length } = keys;
  const found = new Uint32Array(length);
  // Twice round: the first time the last ones do not know what comes behind them.
  for (let step = 2 * length - 1; step >= 0; step--) {
    const at = step % length;
    const next = (at + 1) % length;
    const behind = found[next]!;
    found[at] = keys[at] !== keys[next] ? 1 : behind === 0 ? 0 : behind + 1;
  }
  return found;
}

/** Of a downstream that is a host itself, its own address. */
function hostOf({ address, node }: Stop): string {
  return node ?? address.ip;
}

/** Others in turn, evenly: what it costs does not depend on how many slots there are. */
export class Detours {
  readonly #stops: readonly Stop[];
  /** The slots by host, and on it by address, so that those that a sender cannot be given lie together. */
  readonly #order: readonly number[];
  readonly #own = new Map<string, { readonly first: number; count: number }>();

  constructor(stops: readonly Stop[]) {
    this.#stops = stops;
    const nodes = new Set(stops.map(({ node }) => node));
    // A node that is a downstream, too, is its own host whatever else is said of it.
    const hosts = stops.map((stop) => (nodes.has(stop.address.ip) ? stop.address.ip : hostOf(stop)));
    const keys = hosts.map((host, at) => `${host} ${stops[at]!.address.ip}`);
    this.#order = [...stops.keys()].sort((a, b) => (keys[a]! < keys[b]! ? -1 : keys[a]! > keys[b]! ? 1 : a - b));
    for (const [place, at] of this.#order.entries()) {
      for (const ip of new Set([hosts[at]!, stops[at]!.address.ip])) {
        const own = this.#own.get(ip) ?? { first: place, count: 0 };
        own.count++;
        this.#own.set(ip, own);
      }
    }
  }

  /** A slot for a datagram of this sender, another one at each turn; undefined where none will do. */
  at(turn: number, sender: string): number | undefined {
    const { first, count } = this.#own.get(sender) ?? { first: 0, count: 0 };
    const others = this.#order.length - count;
    for (let step = 0; step < others; step++) {
      const place = (turn + step) % others;
      const at = this.#order[place < first ? place : place + count]!;
      if (!isOwnSource(this.#stops[at]!, sender)) return at;
    }
    return undefined;
  }
}
