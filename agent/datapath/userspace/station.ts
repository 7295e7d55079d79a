/** One listener's place in the userspace datapath: its sockets, who serves them, and all it has ever counted. */
import { formatAddress } from '../../address.ts';
import { libc } from '../../ffi/libc.ts';
import { LIMITS, type Listener } from '../../model.ts';
import type { ListenerCounters } from '../datapath.ts';
import type { Opened } from './opener.ts';
import type { Service } from './pool.ts';
import { REASONS } from './reasons.ts';
import { receiveDrops } from './sockets.ts';
import { countsOf, type TableImage } from './table.ts';
import type { Totals } from './tally.ts';

const MAX_RETIRED = 4 * LIMITS.downstreamsPerListener;
const NOTHING: Totals = {
  received: 0,
  forwarded: 0,
  bytesReceived: 0,
  bytesForwarded: 0,
  dropped: REASONS.map(() => 0),
};

export class Station {
  readonly listener: Listener;
  #sockets: readonly { readonly fd: number; drops: number }[] = [];
  #service: Service | undefined;
  #image: TableImage | undefined;
  /** Of sockets and services that are gone. */
  #past: Totals = NOTHING;
  #overflow = 0;
  #deaths = 0;
  #retired = new Map<string, number>();

  constructor(listener: Listener) {
    this.listener = listener;
  }

  /** The image that it goes by; undefined while it is closed. */
  get image(): TableImage | undefined {
    return this.#service && this.#image;
  }

  /** False if a worker did not let go of the image before this one in time. */
  settled = true;

  /** Begins to serve sockets that are bound already. */
  open({ fds, serve }: Opened, image: TableImage): void {
    try {
      this.#service = serve(image);
    } catch (error) {
      for (const fd of fds) libc.close(fd);
      throw error;
    }
    this.#sockets = fds.map((fd) => ({ fd, drops: 0 }));
    this.#take(image);
    this.settled = true;
  }

  /** Goes by another image. */
  publish(image: TableImage): void {
    this.settled = this.#service!.publish(image);
    this.#take(image);
  }

  counters(): ListenerCounters {
    const now = this.#service?.totals() ?? [];
    this.#readDrops();
    const totals = [this.#past, ...now].reduce(add);
    const dropped = new Map(REASONS.map(({ name }, index) => [name as string, totals.dropped[index]!]));
    dropped.set('receive_buffer', this.#overflow);
    return {
      listener: this.listener,
      mode: 'userspace',
      received: totals.received + this.#overflow,
      forwarded: totals.forwarded,
      bytesReceived: totals.bytesReceived,
      bytesForwarded: totals.bytesForwarded,
      toStack: new Map(),
      dropped,
      downstreams: this.#downstreams(),
      workerDeaths: this.#deaths + (this.#service?.deaths ?? 0),
    };
  }

  /** Tells the service to end, without waiting for it. */
  stop(): void {
    this.#service?.stop();
  }

  /** Ends the service, then closes the sockets. What was counted stays. */
  close(): void {
    if (!this.#service) return;
    this.#service.close();
    this.#readDrops();
    this.#past = [this.#past, ...this.#service.totals()].reduce(add);
    this.#deaths += this.#service.deaths;
    this.#service = undefined;
    for (const { fd } of this.#sockets) libc.close(fd);
    this.#sockets = [];
  }

  /** Remembers what went through the image before this one, unless both share their counters. */
  #take(image: TableImage): void {
    const old = this.#image;
    this.#image = image;
    if (!old || old.counts === image.counts) return;
    for (const [key, count] of countsOf(old)) this.#retired.set(key, (this.#retired.get(key) ?? 0) + count);
    if (this.#retired.size <= MAX_RETIRED) return;
    // Pods come and go for months: what is remembered of those that are gone must not grow with them.
    const live = new Set(image.downstreams.map(formatAddress));
    for (const key of this.#retired.keys()) if (!live.has(key)) this.#retired.delete(key);
  }

  #downstreams(): ReadonlyMap<string, number> {
    if (!this.#image) return new Map();
    const live = countsOf(this.#image);
    return new Map([...live].map(([key, count]) => [key, count + (this.#retired.get(key) ?? 0)]));
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

function add(a: Totals, b: Totals): Totals {
  return {
    received: a.received + b.received,
    forwarded: a.forwarded + b.forwarded,
    bytesReceived: a.bytesReceived + b.bytesReceived,
    bytesForwarded: a.bytesForwarded + b.bytesForwarded,
    dropped: a.dropped.map((count, index) => count + b.dropped[index]!),
  };
}
