/** One listener's place in the userspace datapath: its sockets, who serves them, and all it has ever counted. */
import { type Family, formatAddress } from '../../address.ts';
import { libc } from '../../ffi/libc.ts';
import type { LogLimiter } from '../../log-limit.ts';
import type { Listener, SlotTable } from '../../model.ts';
import type { ListenerCounters } from '../datapath.ts';
import { RetiredCounts } from '../retired-counts.ts';
import type { ForwarderGroup } from './forwarder-group.ts';
import type { OpenedListener } from './open-listener.ts';
import { REASONS } from './reasons.ts';
import { countsOf, type TableSnapshot } from './snapshot.ts';
import { receiveDrops, withdraw } from './sockets/open.ts';
import { addTotals, NO_TOTALS, type Totals } from './workers/state.ts';

export class UserspaceListener {
  /** As the config has it now. */
  listener: Listener;
  /** The tables that it had last: a blueprint may leave out what it does not change. */
  readonly tables = new Map<Family, SlotTable>();
  /** What is said of its safety net. */
  readonly alerts: LogLimiter;
  /** False if a worker did not let go of the snapshot before this one in time. */
  settled = true;
  #sockets: readonly { readonly fd: number; drops: number }[] = [];
  #group: ForwarderGroup | undefined;
  #snapshot: TableSnapshot | undefined;
  #terms = '';
  /** Of sockets and groups that are gone. */
  #past: Totals = NO_TOTALS;
  #overflow = 0;
  #deaths = 0;
  readonly #retired = new RetiredCounts();

  constructor(listener: Listener, alerts: LogLimiter) {
    this.listener = listener;
    this.alerts = alerts;
  }

  /** The snapshot that it goes by; undefined while it is closed. */
  get snapshot(): TableSnapshot | undefined {
    return this.#group && this.#snapshot;
  }

  get forwarders(): number {
    return this.#sockets.length;
  }

  /** True if it is open on these terms. */
  isOpen(terms: string): boolean {
    return this.#group !== undefined && this.#terms === terms;
  }

  /** Goes over to what was opened on these terms, with its snapshot, from what was open till now. */
  open(terms: string, { fds, group }: OpenedListener, snapshot: TableSnapshot): void {
    this.close();
    this.#terms = terms;
    this.#group = group;
    this.#sockets = fds.map((fd) => ({ fd, drops: 0 }));
    this.#take(snapshot);
    this.settled = true;
  }

  /** Goes by another snapshot. */
  publish(snapshot: TableSnapshot): void {
    this.settled = this.#group!.publish(snapshot);
    this.#take(snapshot);
  }

  counters(): ListenerCounters {
    const now = this.#group?.totals() ?? [];
    this.#readDrops();
    const totals = [this.#past, ...now].reduce(addTotals);
    const dropped = new Map(REASONS.map(({ name }, index) => [name as string, totals.dropped[index]!]));
    dropped.set('receive_buffer', this.#overflow);
    return {
      listener: this.listener,
      mode: 'userspace',
      received: totals.received + this.#overflow,
      forwarded: totals.forwarded,
      bytesReceived: totals.bytesReceived,
      bytesForwarded: totals.bytesForwarded,
      toSafetyNet: new Map(),
      passed: new Map(),
      // A socket gives whole datagrams.
      torn: new Map(),
      dropped,
      ...this.#retired.with(this.#snapshot ? countsOf(this.#snapshot) : new Map()),
      workerDeaths: this.#deaths + (this.#group?.deaths ?? 0),
      arrivals: this.#group?.arrivals,
    };
  }

  /** Takes the sockets from where datagrams come, and tells the group to end, without waiting for it. */
  stop(): void {
    for (const { fd } of this.#sockets) {
      try {
        withdraw(fd);
      } catch {
        // Then what comes at the very end is lost with the socket.
      }
    }
    this.#group?.stop();
  }

  /** Ends the group once it has forwarded what is in the sockets, then closes them. What was counted stays. */
  close(): void {
    if (!this.#group) return;
    this.stop();
    this.#group.close();
    this.#readDrops();
    this.#past = [this.#past, ...this.#group.totals()].reduce(addTotals);
    this.#deaths += this.#group.deaths;
    this.#group = undefined;
    for (const { fd } of this.#sockets) libc.close(fd);
    this.#sockets = [];
  }

  /** Remembers what went through the snapshot before this one, unless both share their counters. */
  #take(snapshot: TableSnapshot): void {
    const old = this.#snapshot;
    this.#snapshot = snapshot;
    if (!old || old.counts === snapshot.counts) return;
    const live = new Set(snapshot.downstreams.map(formatAddress));
    this.#retired.add(countsOf(old), (downstream) => live.has(downstream));
  }

  /** The kernel's count is of 32 bits and goes on from the socket's start: ours takes the difference. */
  #readDrops(): void {
    for (const socket of this.#sockets) {
      const drops = receiveDrops(socket.fd);
      this.#overflow += (drops - socket.drops) >>> 0;
      socket.drops = drops;
    }
  }
}
