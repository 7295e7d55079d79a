/**
 * What is for a neighbour that is not resolved waits here, and not in the kernel's own queue, whose losses nobody could
 * count: in order and bounded, until the neighbour answers, or has failed, or has had its time.
 */
import type { IpAddress } from '../../../address.ts';
import type { Timer } from '../../../clock.ts';
import type { Host } from '../../../netlink/host.ts';

/** As net.ipv4.neigh.default.unres_qlen_bytes has it, where a packet counts with its buffer: some 350 small ones. */
const NEIGHBOUR_BYTES = 212_992;
const PACKET_BYTES = 512;
const MOST_BYTES = 4 << 20;
/** The kernel asks three times, a second apart (net.ipv4.neigh.default.mcast_solicit, retrans_time_ms). */
const MOST_MS = 3000;
/** An answer takes less than a millisecond on a LAN. */
const LOOK_MS = { first: 1, most: 20 };
/** Neighbours that are looked at at once, each some ten microseconds: all have their turn. */
const LOOKS = 64;
/** One that cannot even be asked for: so long nobody tries again. */
const REFUSED_MS = 100;

export interface Neighbour {
  readonly ifindex: number;
  readonly address: IpAddress;
}

/** One of the two, once. */
export interface Waiting {
  leave(): void;
  fail(): void;
}

export interface NeighbourQueuesDependencies {
  readonly host: Pick<Host, 'neighbour' | 'use'>;
  readonly timer: Timer;
  readonly now: () => number;
}

interface Queue extends Neighbour {
  readonly since: number;
  readonly waiting: { readonly bytes: number; readonly one: Waiting }[];
  bytes: number;
  isRefused: boolean;
}

export class NeighbourQueues {
  readonly #deps: NeighbourQueuesDependencies;
  /** In the order in which they are looked at. */
  readonly #queues = new Map<string, Queue>();
  #bytes = 0;
  #pauseMs = LOOK_MS.first;
  #stop: (() => void) | undefined;

  constructor(dependencies: NeighbourQueuesDependencies) {
    this.#deps = dependencies;
  }

  /** Whether a packet of so many bytes may leave at once, or waits (what `keep` makes), or has no room to. */
  offer(neighbour: Neighbour, length: number, keep: () => Waiting): 'go' | 'waits' | 'full' {
    const key = `${neighbour.ifindex} ${neighbour.address.ip}`;
    let queue = this.#queues.get(key);
    if (!queue) {
      if (this.#stateOf(neighbour) === 'resolved') return 'go';
      queue = { ...neighbour, since: this.#deps.now(), waiting: [], bytes: 0, isRefused: false };
      this.#ask(queue);
      // A pod on this host has answered before the question is back.
      if (this.#stateOf(neighbour) === 'resolved') return 'go';
      this.#queues.set(key, queue);
      this.#lookSoon();
    }
    const bytes = length + PACKET_BYTES;
    const isFull = queue.bytes + bytes > NEIGHBOUR_BYTES || this.#bytes + bytes > MOST_BYTES;
    if (queue.isRefused || isFull) return 'full';
    queue.waiting.push({ bytes, one: keep() });
    queue.bytes += bytes;
    this.#bytes += bytes;
    return 'waits';
  }

  /** All that waits leaves, for the kernel's own queue. */
  close(): void {
    this.#stop?.();
    for (const [key, queue] of this.#queues) this.#end(key, queue, 'leave');
  }

  #ask(queue: Queue): void {
    try {
      this.#deps.host.use(queue.ifindex, queue.address);
    } catch {
      // Its link is gone, or the table is full: nothing can be sent to it either.
      queue.isRefused = true;
    }
  }

  #stateOf({ ifindex, address }: Neighbour): 'resolved' | 'asked' | 'failed' | 'unknown' {
    try {
      const entry = this.#deps.host.neighbour(ifindex, address);
      if (!entry) return 'unknown';
      if (!entry.unresolved) return 'resolved';
      return entry.failed ? 'failed' : 'asked';
    } catch {
      // The kernel did not answer; whoever waits has a limit.
      return 'unknown';
    }
  }

  #lookSoon(): void {
    this.#stop?.();
    this.#pauseMs = LOOK_MS.first;
    this.#stop = this.#deps.timer(this.#pauseMs, () => this.#look());
  }

  #look(): void {
    try {
      for (const [key, queue] of [...this.#queues].slice(0, LOOKS)) this.#lookAt(key, queue);
    } finally {
      this.#pauseMs = Math.min(this.#pauseMs * 2, LOOK_MS.most);
      this.#stop = this.#queues.size > 0 ? this.#deps.timer(this.#pauseMs, () => this.#look()) : undefined;
    }
  }

  #lookAt(key: string, queue: Queue): void {
    const waited = this.#deps.now() - queue.since;
    const state = queue.isRefused ? 'unknown' : this.#stateOf(queue);
    if (state === 'resolved') this.#end(key, queue, 'leave');
    else if (state === 'failed' || waited >= (queue.isRefused ? REFUSED_MS : MOST_MS)) this.#end(key, queue, 'fail');
    else {
      // Somebody has flushed the table.
      if (state === 'unknown' && !queue.isRefused) this.#ask(queue);
      this.#queues.delete(key);
      this.#queues.set(key, queue);
    }
  }

  #end(key: string, queue: Queue, how: keyof Waiting): void {
    this.#queues.delete(key);
    this.#bytes -= queue.bytes;
    for (const { one } of queue.waiting) one[how]();
  }
}
