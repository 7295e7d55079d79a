/** What serves one listener: a share of as many threads as it has sockets. */
import type { Log } from '../../../log.ts';
import type { ForwarderGroup } from '../forwarder-group.ts';
import type { TableSnapshot } from '../snapshot.ts';
import type { PoolThread } from './pool-thread.ts';
import type { Share } from './share.ts';
import { pollUntil, type Totals } from './state.ts';

/** A worker that holds on to an old table for longer is named as a problem; a batch takes well below a millisecond. */
const SETTLE_MS = 500;
/**
 * From the word to stop until nothing is waited for any more, threads included. Its wait ends after 100 ms, then it waits as long
 * for what is on its way, then comes what is left in the buffer.
 */
const STOP_MS = 1000;

export interface ListenerSharesOptions {
  readonly log: Log;
  /** The listener's name. */
  readonly name: string;
  readonly places: readonly Place[];
  /** Called when they have ended, or were given up, with the time by which they had to. */
  readonly onClose: (stopBy: number) => void;
}

/** A share, and the thread that serves it. */
export interface Place {
  readonly share: Share;
  readonly thread: PoolThread;
}

export class ListenerShares implements ForwarderGroup {
  readonly #deps: ListenerSharesOptions;
  /** By when all have stopped, once they were told to. */
  #stopBy: number | undefined;

  constructor(options: ListenerSharesOptions) {
    this.#deps = options;
  }

  get deaths(): number {
    return this.#deps.places.reduce((sum, { share }) => sum + share.deaths, 0);
  }

  ready(limit: number): boolean {
    return this.#every(limit, ({ share, thread }) => share.state.ready || share.state.left || !thread.serves);
  }

  publish(snapshot: TableSnapshot): boolean {
    const { places } = this.#deps;
    for (const { share, thread } of places) thread.publish(share, snapshot);
    return places.every(({ share, thread }) => !thread.serves || share.state.settled(SETTLE_MS));
  }

  totals(): readonly Totals[] {
    return this.#deps.places.flatMap(({ share }) => share.totals());
  }

  stop(): void {
    this.#stopBy ??= performance.now() + STOP_MS;
    for (const { share, thread } of this.#deps.places) {
      share.state.stop();
      thread.state.tell();
    }
  }

  close(): void {
    this.stop();
    const stopBy = this.#stopBy!;
    const ended = this.#every(stopBy - performance.now(), ({ share, thread }) => share.state.left || !thread.serves);
    const { log, name, places, onClose } = this.#deps;
    if (!ended) log.warn('worker did not stop in time', { listener: name });
    for (const { share } of places) share.stepBack();
    onClose(stopBy);
  }

  #every(limit: number, test: (place: Place) => boolean): boolean {
    return pollUntil(limit, () => this.#deps.places.every(test));
  }
}
