/**
 * A watch that outlives its requests. An API server sends bookmarks only where there is a newer version, so in a quiet
 * cluster a healthy watch is as silent as a dead one, and nobody can tell from here which of the two it is. So one that
 * was silent for long gets a successor from the last known version, and is dropped when that stands. No event can be
 * missed: what the old one had not told by then, the new one tells (API concepts, "Efficient detection of changes").
 */
import type { Timer } from '../clock.ts';
import type { Selection, SliceApi, WatchEvent } from './api.ts';
import { ApiFailure } from './failure.ts';

export interface ContinuousWatchDependencies {
  readonly api: SliceApi;
  readonly selection: Selection;
  readonly timer: Timer;
  /** A request that does not stand after so long never will. */
  readonly openMs: number;
  readonly silenceMs: number;
  /** The version to go on from. */
  readonly version: () => string;
  /** How long the next request may last. */
  readonly timeoutSeconds: () => number;
  /** A watch stands, the first or a successor. */
  readonly onOpen: () => void;
  /** Bytes came. */
  readonly onBytes: () => void;
  readonly onEvent: (event: WatchEvent) => void;
  /** Asked after a silence; without a successor the watch ends in good order. */
  readonly wantsSuccessor: () => boolean;
}

export class ContinuousWatch {
  readonly #deps: ContinuousWatchDependencies;
  readonly #end = Promise.withResolvers<void>();
  #standing: AbortController | undefined;
  #opening: AbortController | undefined;
  #cancelSilence = () => {};

  constructor(dependencies: ContinuousWatchDependencies) {
    this.#deps = dependencies;
  }

  /** Returns when the server ends the watch in good order, or after `close`. Throws ApiFailure. */
  async run(): Promise<void> {
    this.#ask();
    try {
      await this.#end.promise;
    } finally {
      this.close();
    }
  }

  close(): void {
    this.#cancelSilence();
    this.#drop();
    this.#standing?.abort();
    this.#standing = undefined;
    this.#end.resolve();
  }

  /** A request whose signal is aborted is nobody's: what it still says, or how it ends, is not heard. */
  #ask(): void {
    const { api, selection, timer, openMs, version, timeoutSeconds, onEvent } = this.#deps;
    const request = new AbortController();
    const { signal } = request;
    const late = () => {
      if (this.#opening === request) this.#fail(new ApiFailure('stalled', `no answer for ${openMs / 1000} s`));
    };
    const cancel = timer(openMs, late);
    signal.addEventListener('abort', cancel);
    this.#opening = request;
    const options = {
      from: version(),
      timeoutSeconds: timeoutSeconds(),
      onOpen: () => {
        if (signal.aborted) return;
        cancel();
        this.#opened(request);
      },
      onBytes: () => !signal.aborted && this.#heard(),
      onEvent: (event: WatchEvent) => !signal.aborted && onEvent(event),
    };
    // What does not heed the signal, such as an authentication plugin that hangs, is left behind.
    api.watch(selection, options, signal).then(
      () => !signal.aborted && this.#end.resolve(),
      (error: unknown) => !signal.aborted && this.#fail(error),
    );
  }

  #opened(request: AbortController): void {
    this.#standing?.abort();
    this.#standing = request;
    this.#opening = undefined;
    this.#deps.onOpen();
    this.#listen();
  }

  #heard(): void {
    // It lives: were its successor to stand as well, it would tell again what this one is about to tell.
    this.#drop();
    this.#deps.onBytes();
    this.#listen();
  }

  #listen(): void {
    const { timer, silenceMs, wantsSuccessor } = this.#deps;
    this.#cancelSilence();
    this.#cancelSilence = timer(silenceMs, () => (wantsSuccessor() ? this.#ask() : this.#end.resolve()));
  }

  #drop(): void {
    this.#opening?.abort();
    this.#opening = undefined;
  }

  #fail(error: unknown): void {
    this.#end.reject(error);
  }
}
