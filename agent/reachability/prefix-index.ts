/** Which of our addresses lie in a prefix: a node that speaks BGP asks thousands of times a second. */
import { encodeIp, FAMILIES, type Family, type IpAddress } from '../address.ts';
import type { Prefix } from '../netlink/route.ts';

interface Entry {
  /** Hexadecimal, so that the order of texts is that of addresses. */
  readonly key: string;
  readonly ip: string;
}

export class PrefixIndex {
  readonly #addresses = new Map<string, IpAddress>();
  /** Undefined until somebody asks after a change. */
  #sorted: Readonly<Record<Family, readonly Entry[]>> | undefined;

  add(address: IpAddress): void {
    this.#addresses.set(address.ip, address);
    this.#sorted = undefined;
  }

  delete(ip: string): void {
    if (this.#addresses.delete(ip)) this.#sorted = undefined;
  }

  within({ family, bytes, length }: Prefix): readonly string[] {
    this.#sorted ??= { 4: this.#sort(4), 6: this.#sort(6) };
    const entries = this.#sorted[family];
    const from = lowest(entries, edge(family, bytes, length, 0));
    const last = edge(family, bytes, length, 0xff);
    let to = from;
    while (to < entries.length && entries[to]!.key <= last) to++;
    return entries.slice(from, to).map(({ ip }) => ip);
  }

  #sort(family: Family): readonly Entry[] {
    return [...this.#addresses.values()]
      .filter((address) => address.family === family)
      .map((address) => ({ key: hex(encodeIp(address)), ip: address.ip }))
      .sort((a, b) => (a.key < b.key ? -1 : 1));
  }
}

/** The first address of a prefix, or with 0xff for `fill` the last. */
function edge(family: Family, bytes: Uint8Array, length: number, fill: 0 | 0xff): string {
  const filled = Uint8Array.from({ length: FAMILIES[family].bytes }, (_, index) => {
    const kept = Math.min(Math.max(length - index * 8, 0), 8);
    const mask = (0xff00 >> kept) & 0xff;
    return ((bytes[index] ?? 0) & mask) | (fill & ~mask & 0xff);
  });
  return hex(filled);
}

/** The index of the first entry that is not below `key`. */
function lowest(entries: readonly Entry[], key: string): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (entries[middle]!.key < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex');
}
