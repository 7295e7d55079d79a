/** The API of slices without a network, for tests on a clock that stands still: the same store, told by hand. */
import type { Selection, SliceApi, SliceList, WatchEvent, WatchOptions } from '../../../agent/discovery/api.ts';
import { ApiFailure } from '../../../agent/discovery/failure.ts';
import { ApiStore, type Change } from '../../../lab/api/store.ts';

/** `hang`: no answer until the caller gives up. */
export type Misfortune = ApiFailure | 'hang';

/** A watch that stands. */
interface Standing {
  readonly options: WatchOptions;
  /** Its connection is there, and nothing comes through it any more. */
  dead: boolean;
  readonly end: () => void;
  readonly fail: (why: unknown) => void;
}

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
  readonly #standing = new Set<Standing>();

  constructor(now: () => number) {
    this.#now = now;
    this.store.follow((change) => {
      for (const standing of this.#standing) tell(standing, change);
    });
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
    let standing: Standing | undefined;
    await new Promise<void>((resolve, reject) => {
      standing = { options, dead: false, end: resolve, fail: reject };
      this.#standing.add(standing);
      signal.addEventListener('abort', () => reject(signal.reason));
      for (const change of this.store.since(Number(options.from))) tell(standing, change);
    }).finally(() => this.#standing.delete(standing!));
  }

  /** How many watches stand. */
  get standing(): number {
    return this.#standing.size;
  }

  get isWatched(): boolean {
    return this.#standing.size > 0;
  }

  /** The server ends its watches in good order. */
  end(): void {
    for (const { end } of this.#standing) end();
  }

  break(reason: 'reset' | 'gone' = 'reset'): void {
    for (const { fail } of this.#standing) fail(new ApiFailure(reason, 'broken by the test'));
  }

  /** The watches that stand now say nothing more, ever, and nobody is told: a load balancer has forgotten them. */
  deaden(): void {
    for (const standing of this.#standing) standing.dead = true;
  }

  bookmark(version = this.store.version): void {
    for (const standing of this.#standing) tellBookmark(standing, version);
  }

  /** What a real server does every minute: a bookmark to whoever is behind. */
  bookmarkIfNewer(): void {
    const { version } = this.store;
    for (const standing of this.#standing) {
      if (version > Number(standing.options.from)) tellBookmark(standing, version);
    }
  }

  /** An event with any object. */
  send(type: 'ADDED' | 'MODIFIED' | 'DELETED', object: unknown): void {
    this.#event(type, object, this.store.version);
  }

  #event(type: WatchEvent['type'], object: unknown, version: number): void {
    for (const standing of this.#standing) tellEvent(standing, { type, object, resourceVersion: String(version) });
  }
}

function tell(standing: Standing, { before, after, version }: Change): void {
  // As a real server, which to a version of the future says nothing until that has come.
  if (version <= Number(standing.options.from)) return;
  const type = after ? (before ? 'MODIFIED' : 'ADDED') : 'DELETED';
  tellEvent(standing, { type, object: after ?? before, resourceVersion: String(version) });
}

function tellBookmark(standing: Standing, version: number): void {
  const resourceVersion = String(version);
  tellEvent(standing, { type: 'BOOKMARK', object: { metadata: { resourceVersion } }, resourceVersion });
}

function tellEvent({ dead, options, fail }: Standing, event: WatchEvent): void {
  if (dead) return;
  try {
    options.onBytes();
    options.onEvent(event);
  } catch (error) {
    fail(error);
  }
}

async function suffer(misfortune: Misfortune | undefined, signal: AbortSignal): Promise<void> {
  if (misfortune instanceof ApiFailure) throw misfortune;
  if (misfortune !== 'hang') return;
  await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
}
