/** The API of slices without a network, for tests on a clock that stands still: the same store, told by hand. */
import type { Selection, SliceApi, SliceList, WatchOptions } from '../../../agent/discovery/api.ts';
import { ApiFailure } from '../../../agent/discovery/failure.ts';
import { ApiStore, type Change } from './store.ts';

/** `hang`: no answer until the caller gives up. */
export type Misfortune = ApiFailure | 'hang';

export class MemoryApi implements SliceApi {
  readonly store = new ApiStore();
  /** When lists were asked for, and how often a watch was. */
  readonly lists: number[] = [];
  watches = 0;
  listsInFlight = 0;
  mostListsInFlight = 0;
  /** What happens to the next requests, one each; and to all of them after that. */
  listFails: Misfortune[] = [];
  watchFails: Misfortune[] = [];
  listAlways: Misfortune | undefined;
  watchAlways: Misfortune | undefined;
  readonly #now: () => number;
  #open: { options: WatchOptions; end: () => void; fail: (why: unknown) => void } | undefined;

  constructor(now: () => number) {
    this.#now = now;
    this.store.follow((change) => this.#tell(change));
  }

  async list({ namespace }: Selection, signal: AbortSignal): Promise<SliceList> {
    this.lists.push(this.#now());
    this.listsInFlight++;
    this.mostListsInFlight = Math.max(this.mostListsInFlight, this.listsInFlight);
    try {
      await suffer(this.listFails.shift() ?? this.listAlways, signal);
      return { resourceVersion: String(this.store.version), items: this.store.list(namespace, () => true) };
    } finally {
      this.listsInFlight--;
    }
  }

  async watch(_: Selection, options: WatchOptions, signal: AbortSignal): Promise<void> {
    this.watches++;
    await suffer(this.watchFails.shift() ?? this.watchAlways, signal);
    options.onOpen();
    if (Number(options.from) < this.store.oldest) throw new ApiFailure('gone', '410 too old');
    await new Promise<void>((resolve, reject) => {
      this.#open = { options, end: resolve, fail: reject };
      signal.addEventListener('abort', () => reject(signal.reason));
      for (const change of this.store.since(Number(options.from))) this.#tell(change);
    }).finally(() => {
      this.#open = undefined;
    });
  }

  get isWatched(): boolean {
    return this.#open !== undefined;
  }

  /** The server ends the watch in good order. */
  end(): void {
    this.#open?.end();
  }

  break(reason: 'reset' | 'gone' = 'reset'): void {
    this.#open?.fail(new ApiFailure(reason, 'broken by the test'));
  }

  bookmark(version = this.store.version): void {
    this.#event('BOOKMARK', { metadata: { resourceVersion: String(version) } }, version);
  }

  /** An event with any object. */
  send(type: 'ADDED' | 'MODIFIED' | 'DELETED', object: unknown): void {
    this.#event(type, object, this.store.version);
  }

  #tell({ before, after, version }: Change): void {
    // As a real server, which to a version of the future says nothing until that has come.
    if (version <= Number(this.#open?.options.from)) return;
    this.#event(after ? (before ? 'MODIFIED' : 'ADDED') : 'DELETED', after ?? before, version);
  }

  #event(type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK', object: unknown, version: number): void {
    const open = this.#open;
    try {
      open?.options.onBytes();
      open?.options.onEvent({ type, object, resourceVersion: String(version) });
    } catch (error) {
      open?.fail(error);
    }
  }
}

async function suffer(misfortune: Misfortune | undefined, signal: AbortSignal): Promise<void> {
  if (misfortune instanceof ApiFailure) throw misfortune;
  if (misfortune !== 'hang') return;
  await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
}
