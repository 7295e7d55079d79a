/**
 * A listener's slot tables as its forwarders see them: one snapshot a generation, made whole, shared, never changed but
 * for its counters and cursors. A forwarder goes from one snapshot to the next between two batches.
 */
import { type Family, formatAddress, type IpAddress, ipBytes, type SocketAddress } from '../../address.ts';
import type { SlotTable } from '../../model.ts';
import { type Stop, seenFromHere } from '../detours.ts';

/** What is posted to the forwarders; its shared buffers are theirs and the agent's alike. */
export interface TableSnapshot {
  readonly generation: number;
  /** Of all families, each once; slots and counters name them by their place here. */
  readonly downstreams: readonly SocketAddress[];
  /** By downstream: the address of its node, as Stop has it. */
  readonly nodes: readonly (string | undefined)[];
  /** Uint16 by slot: its downstream. */
  readonly slots: Readonly<Record<Family, SharedArrayBuffer>>;
  /** Int32 for each family: the next slot. One walk for all forwarders, so round robin is exact over all of them. */
  readonly cursors: SharedArrayBuffer;
  /** Float64 by forwarder, then downstream: datagrams sent. */
  readonly counts: SharedArrayBuffer;
  /** This host's own addresses, 16 bytes each as ipBytes writes them: no source may be bound that is one of them. */
  readonly hostAddresses: Uint8Array;
  /** Broadcast addresses that another listener binds, as words: what is sent there is that one's alone. */
  readonly elsewhere?: readonly number[];
}

/** Makes the snapshot of the tables for so many forwarders; the walks go on where `before` is. */
export function buildSnapshot(
  generation: number,
  tables: readonly SlotTable[],
  hostAddresses: readonly IpAddress[],
  forwarders: number,
  before?: TableSnapshot,
): TableSnapshot {
  const downstreams = new Map<string, Stop & { index: number }>();
  const own = new Set(hostAddresses.map(({ ip }) => ip));
  const slots = { 4: new SharedArrayBuffer(0), 6: new SharedArrayBuffer(0) };
  for (const table of tables) {
    slots[table.family] = new SharedArrayBuffer(table.slots.length * 2);
    const view = new Uint16Array(slots[table.family]);
    for (const [at, { address, node }] of table.slots.entries()) {
      const key = formatAddress(address);
      const stop = { address, node, index: downstreams.size };
      const known = downstreams.get(key) ?? seenFromHere(stop, (ip) => own.has(ip));
      downstreams.set(key, known);
      view[at] = known.index;
    }
  }
  const cursors = new SharedArrayBuffer(8);
  if (before) new Int32Array(cursors).set(new Int32Array(before.cursors));
  return {
    generation,
    downstreams: [...downstreams.values()].map(({ address }) => address),
    nodes: [...downstreams.values()].map(({ node }) => node),
    slots,
    cursors,
    counts: new SharedArrayBuffer(forwarders * downstreams.size * 8),
    hostAddresses: Uint8Array.from(hostAddresses.flatMap(({ family, ip }) => [...ipBytes(family, ip)])),
  };
}

/** True if both send every datagram the same way. */
export function sameSnapshot(a: TableSnapshot, b: TableSnapshot): boolean {
  return sameTables(a, b) && Buffer.compare(a.hostAddresses, b.hostAddresses) === 0;
}

/** True if both have the same slots, and know the same of them. */
export function sameTables(a: TableSnapshot, b: TableSnapshot): boolean {
  const sameSlots = (family: Family) =>
    Buffer.compare(new Uint8Array(a.slots[family]), new Uint8Array(b.slots[family])) === 0;
  const text = ({ downstreams, nodes }: TableSnapshot) => [...downstreams.map(formatAddress), ...nodes].join();
  return text(a) === text(b) && sameSlots(4) && sameSlots(6);
}

/** Datagrams by downstream, over all forwarders. */
export function countsOf(snapshot: TableSnapshot): Map<string, number> {
  const counts = new Float64Array(snapshot.counts);
  const { length } = snapshot.downstreams;
  const sums = snapshot.downstreams.map((address, index) => {
    let sum = 0;
    for (let at = index; at < counts.length; at += length) sum += counts[at]!;
    return [formatAddress(address), sum] as const;
  });
  return new Map(sums);
}

/** One forwarder's walk through an snapshot. */
export class SlotWalk {
  readonly slots: Uint16Array;
  readonly #cursor: Int32Array;

  constructor(snapshot: TableSnapshot, family: Family) {
    this.slots = new Uint16Array(snapshot.slots[family]);
    this.#cursor = new Int32Array(snapshot.cursors, family === 4 ? 0 : 4, 1);
  }

  /** Takes the next `count` slots for the caller alone and returns the first; there must be slots. */
  take(count: number): number {
    const { length } = this.slots;
    for (;;) {
      const now = Atomics.load(this.#cursor, 0);
      const next = (now + count) % length;
      // A table may be shorter than the one whose cursor it goes on from.
      if (Atomics.compareExchange(this.#cursor, 0, now, next) === now) return now % length;
    }
  }
}
