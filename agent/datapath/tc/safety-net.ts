/** The kernel path's safety net on this host: the ring that the program fills, and the program that sends on `lo`. */
import type { IpAddress } from '../../address.ts';
import type { Timer } from '../../clock.ts';
import { LOOPBACK_IFINDEX } from '../../ffi/libc.ts';
import { watchReadable } from '../../ffi/poll.ts';
import { RingBuffer } from '../../ffi/ring-buffer.ts';
import type { LogLimiter } from '../../log-limit.ts';
import type { Attachment, Program } from './attachment.ts';
import type { Bpf } from './bpf.ts';
import { attachClsact, type ListFilters } from './clsact.ts';
import { openExits } from './handed/exits.ts';
import { type HandedListener, HandedPackets, type Way } from './handed/handed-packets.ts';
import type { NeighbourQueuesDependencies } from './handed/neighbour-queues.ts';
import { decodeHanded } from './handed/record.ts';

/** Records before the event loop has its turn: readiness, metrics and the reconciler live there too. */
const RECORDS_A_TURN = 256;
const LAST_RECORDS = 4096;
/** A way is asked for anew after so long, or when the network has changed. */
const WAY_MS = 1000;
const MOST_WAYS = 8192;
/** ICMP errors in a second, to all senders together (RFC 1812, 4.3.2.8). */
const REPORTS_A_SECOND = 100;
const LO = { index: LOOPBACK_IFINDEX, name: 'lo' };

type WayLookup = (address: IpAddress) => Way | undefined;

export interface SafetyNetDependencies {
  readonly bpf: Bpf;
  readonly filters: ListFilters;
  /** Finds ways by the routes and links of the moment at which it is asked for. */
  readonly ways: () => WayLookup;
  readonly neighbours: NeighbourQueuesDependencies['host'];
  readonly timer: Timer;
  readonly listener: (row: number) => HandedListener | undefined;
  readonly alerts: LogLimiter;
  readonly now: () => number;
}

/** The ring, and what drains it. */
export interface SafetyNetSource {
  readonly ring: number;
  readonly bytes: number;
  readonly outProgram: Program;
}

export class KernelSafetyNet {
  readonly #deps: SafetyNetDependencies;
  readonly #source: SafetyNetSource;
  readonly #packets: HandedPackets;
  readonly #ring: RingBuffer;
  readonly #watch: { close(): void };
  readonly #ways = new Map<string, Way | undefined>();
  #lookup: WayLookup;
  #waysUntil = 0;
  #out: Attachment | undefined;
  #reports = { since: 0, count: 0 };

  /** Throws SystemError. */
  constructor(source: SafetyNetSource, dependencies: SafetyNetDependencies) {
    this.#deps = dependencies;
    this.#source = source;
    this.#lookup = dependencies.ways();
    const { listener, now, neighbours, timer } = dependencies;
    this.#packets = new HandedPackets({
      listener,
      now,
      neighbours: { host: neighbours, timer: (ms, task) => timer(ms, () => this.#work(task)), now },
      wayTo: (address) => this.#wayTo(address),
      exits: openExits(),
      redirects: () => this.#out !== undefined,
      mayReport: () => this.#mayReport(),
    });
    this.#ring = new RingBuffer(source.ring, source.bytes);
    this.#watch = watchReadable(source.ring, () => this.#drain(RECORDS_A_TURN));
  }

  /** The network may have changed: looks whether the program is on `lo`, and forgets the ways. */
  refresh(): void {
    const { bpf, filters, alerts } = this.#deps;
    this.#waysUntil = 0;
    try {
      if (!this.#out?.holds()) this.#out = attachClsact(this.#source.outProgram, LO, filters, bpf, 'egress');
      alerts.resolve('lo', { message: 'safety net sends past the packet filter again' });
    } catch (error) {
      this.#out = undefined;
      const why = (error as Error).message;
      const message = `safety net sends through the packet filter, where masquerade may take its sources: no program on lo: ${why}`;
      alerts.raise('lo', { message });
    }
  }

  /** Takes the program off `lo`. */
  remove(): void {
    this.#close();
    this.#out?.detach();
  }

  release(): void {
    this.#close();
    this.#out?.release();
  }

  /** What the program has handed over by now still leaves. */
  #close(): void {
    this.#watch.close();
    this.#drain(LAST_RECORDS);
    this.#ring.close();
    this.#packets.close();
  }

  #drain(most: number): void {
    this.#ring.drain(most, (record) => this.#work(() => this.#packets.take(decodeHanded(record))));
  }

  #work(task: () => void): void {
    const { alerts } = this.#deps;
    try {
      task();
      alerts.resolve('work', { message: 'safety net works again' });
    } catch (cause) {
      const { message } = cause as Error;
      alerts.raise('work', {
        message: 'safety net failed',
        fields: { error: message },
        level: 'error',
        cause: message,
      });
    }
  }

  #wayTo(address: IpAddress): Way | undefined {
    const now = this.#deps.now();
    if (now >= this.#waysUntil || this.#ways.size >= MOST_WAYS) {
      this.#ways.clear();
      this.#lookup = this.#deps.ways();
      this.#waysUntil = now + WAY_MS;
    }
    if (!this.#ways.has(address.ip)) this.#ways.set(address.ip, this.#lookup(address));
    return this.#ways.get(address.ip);
  }

  #mayReport(): boolean {
    const now = this.#deps.now();
    if (now - this.#reports.since >= 1000) this.#reports = { since: now, count: 0 };
    return ++this.#reports.count <= REPORTS_A_SECOND;
  }
}
