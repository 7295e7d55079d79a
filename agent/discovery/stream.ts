/**
 * The slices of one Service, kept up to date: a list, then watches from where it ended for as long as each ends in
 * good order. Whatever else happens leads back to the list after a pause, and a list replaces all that is known, so no
 * change can be missed for good. Until then the last slices stay in use.
 */
import type { Log } from '../log.ts';
import type { Timer } from '../reconciler.ts';
import { Absence } from './absence.ts';
import type { Selection, SliceApi, WatchEvent } from './api.ts';
import { Complaints } from './complaints.ts';
import { countStates } from './endpoints.ts';
import { ApiFailure, CAUSES, type Cause } from './failure.ts';
import { missingRole } from './forbidden.ts';
import { KnownSlices } from './known.ts';
import { Pace } from './pace.ts';
import type { EndpointState, Slice } from './slice.ts';

export interface StreamDependencies extends Selection {
  readonly api: SliceApi;
  readonly log: Log;
  readonly timer: Timer;
  /** Milliseconds that only grow, as performance.now. */
  readonly now: () => number;
  readonly random: () => number;
  /** The slices may have changed. */
  readonly onChange: () => void;
}

/** A stream as the metrics show it. */
export interface StreamStatus extends Selection {
  /** A watch stands. */
  readonly connected: boolean;
  /** Seconds since the API server last said anything on this stream; absent before it ever did. */
  readonly ageSeconds?: number;
  /** Seconds since the last change that it told. */
  readonly lastEventAgeSeconds?: number;
  /** Lists after the first. */
  readonly relists: number;
  readonly errors: Readonly<Record<Cause, number>>;
  readonly endpoints: Readonly<Record<EndpointState, number>>;
  /** Slices and endpoints that could not be read and were skipped. */
  readonly malformed: number;
}

export const TIMES = {
  listMs: 30_000,
  /** API servers send a bookmark about every minute (KEP-956), so this is silence. */
  idleMs: 100_000,
  /** A watch ends after five to ten minutes, as client-go's do, and at another time for each agent. */
  watchSeconds: { least: 300, spread: 300 },
  /** A shorter watch, even if it ended in good order, is a server that goes away. */
  shortWatchMs: 5000,
  /** After so long a watch, a failure is a first one again. */
  steadyMs: 10_000,
} as const;

export class SliceStream {
  readonly #with: StreamDependencies;
  readonly #pace: Pace;
  readonly #complaints: Complaints;
  readonly #absence: Absence;
  readonly #known = new KnownSlices();
  readonly #errors = Object.fromEntries(CAUSES.map((cause) => [cause, 0])) as Record<Cause, number>;
  #version = 0;
  #resourceVersion = '';
  #connected = false;
  #complained = false;
  #lists = 0;
  #lastSign: number | undefined;
  #lastEvent: number | undefined;
  #request: AbortController | undefined;
  #endPause: (() => void) | undefined;
  #closed = false;

  constructor(dependencies: StreamDependencies) {
    this.#with = dependencies;
    this.#pace = new Pace(dependencies);
    this.#complaints = new Complaints(dependencies.now);
    this.#absence = new Absence(dependencies);
  }

  /** What the API server said last; undefined before it said anything. */
  get slices(): Iterable<Slice> | undefined {
    return this.#known.all;
  }

  /** Another number for other slices. */
  get version(): number {
    return this.#version;
  }

  /** Follows the Service until `close`; never throws. */
  async run(): Promise<void> {
    while (!this.#closed) {
      let verb: 'list' | 'watch' = 'list';
      try {
        await this.#list();
        verb = 'watch';
        while (!this.#closed) await this.#watch();
      } catch (error) {
        if (this.#closed) return;
        await this.#pause(this.#failed(verb, error));
      }
    }
  }

  status(): StreamStatus {
    const { namespace, service, now } = this.#with;
    const age = (since: number) => (now() - since) / 1000;
    return {
      namespace,
      service,
      connected: this.#connected,
      ...(this.#lastSign !== undefined && { ageSeconds: age(this.#lastSign) }),
      ...(this.#lastEvent !== undefined && { lastEventAgeSeconds: age(this.#lastEvent) }),
      relists: Math.max(0, this.#lists - 1),
      errors: { ...this.#errors },
      endpoints: countStates(this.slices ?? []),
      malformed: this.#known.malformed,
    };
  }

  close(): void {
    this.#closed = true;
    this.#request?.abort();
    this.#endPause?.();
    this.#absence.set(false);
  }

  async #list(): Promise<void> {
    this.#pace.listing();
    const { items, resourceVersion } = await this.#guarded(TIMES.listMs, 'timeout', ({ signal }) =>
      this.#with.api.list(this.#with, signal),
    );
    // Counted when answered: a server that is away is not being relisted.
    this.#lists++;
    this.#known.replace(items);
    this.#resourceVersion = resourceVersion;
    this.#heard();
    this.#changed();
  }

  async #watch(): Promise<void> {
    const { now, random, api } = this.#with;
    const { least, spread } = TIMES.watchSeconds;
    const started = now();
    try {
      await this.#guarded(TIMES.idleMs, 'stalled', ({ signal, rearm }) =>
        api.watch(
          this.#with,
          {
            from: this.#resourceVersion,
            timeoutSeconds: Math.round(least + random() * spread),
            onOpen: () => this.#opened(),
            onBytes: () => {
              rearm();
              this.#heard();
            },
            onEvent: (event) => this.#take(event),
          },
          signal,
        ),
      );
    } finally {
      this.#connected = false;
      if (now() - started >= TIMES.steadyMs) this.#pace.steady();
    }
    if (now() - started < TIMES.shortWatchMs) throw new ApiFailure('ended_early', 'the server ended the watch at once');
  }

  /** Runs a request that is broken off after `ms` without a call of `rearm`. */
  async #guarded<T>(
    ms: number,
    reason: Cause,
    ask: (guard: { signal: AbortSignal; rearm: () => void }) => Promise<T>,
  ): Promise<T> {
    const { timer } = this.#with;
    const request = new AbortController();
    this.#request = request;
    const { signal } = request;
    const expire = () => request.abort(new ApiFailure(reason, `no answer for ${Math.round(ms / 1000)} s`));
    let cancel = timer(ms, expire);
    const rearm = () => {
      cancel();
      cancel = timer(ms, expire);
    };
    // What does not heed the signal, such as an authentication plugin that hangs, is left behind.
    const broken = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
    try {
      const answer = await Promise.race([ask({ signal, rearm }), broken]);
      signal.throwIfAborted();
      return answer;
    } finally {
      cancel();
    }
  }

  #take({ type, object, resourceVersion }: WatchEvent): void {
    const isBack = resourceVersion !== undefined && isBefore(resourceVersion, this.#resourceVersion);
    // What is deleted may bear the version of its last change, on servers of old.
    if (isBack && type !== 'DELETED') {
      const told = `${type} at ${resourceVersion} after ${this.#resourceVersion}`;
      throw new ApiFailure('lost_history', `the server went back in time: ${told}`);
    }
    if (resourceVersion !== undefined && !isBack) this.#resourceVersion = resourceVersion;
    if (type === 'BOOKMARK') return;
    this.#lastEvent = this.#with.now();
    if (type === 'DELETED') this.#known.delete(object);
    else this.#known.put(object);
    this.#changed();
  }

  #changed(): void {
    this.#version++;
    this.#absence.set(this.#known.isEmpty);
    this.#with.onChange();
  }

  #opened(): void {
    this.#connected = true;
    this.#heard();
    if (!this.#complained) return;
    this.#complained = false;
    const { log, namespace, service } = this.#with;
    log.info('following EndpointSlices again', { namespace, service });
  }

  #heard(): void {
    this.#lastSign = this.#with.now();
  }

  /** Counts and says what went wrong; returns what the server asks us to wait, in milliseconds. */
  #failed(verb: 'list' | 'watch', error: unknown): number {
    const failure = error instanceof ApiFailure ? error : new ApiFailure('server_error', String(error));
    this.#errors[failure.reason]++;
    const { log, namespace, service } = this.#with;
    const due = this.#complaints.isDue(`${verb} ${failure.reason}`);
    if (due) this.#complained = true;
    const inUse = this.slices ? 'the last known endpoints stay in use' : 'no endpoints are known yet';
    const why = failure.reason === 'forbidden' ? forbidden(verb, namespace, failure.message) : failure.message;
    log[due ? 'warn' : 'debug'](`failed to ${verb} EndpointSlices: ${why}; ${inUse}`, {
      namespace,
      service,
      cause: failure.reason,
    });
    return failure.retryAfterMs;
  }

  async #pause(retryAfterMs: number): Promise<void> {
    const ms = this.#pace.afterFailure(retryAfterMs);
    await new Promise<void>((resolve) => {
      const cancel = this.#with.timer(ms, resolve);
      this.#endPause = () => {
        cancel();
        resolve();
      };
    });
  }
}

function forbidden(verb: string, namespace: string, refusal: string): string {
  const missing = missingRole(namespace, refusal);
  return `forbidden: ${refusal}; what is missing to ${verb} endpointslices in namespace "${namespace}": ${missing}`;
}

/** Versions of one kind of object can be compared as numbers (KEP-5504); what is no number says nothing. */
function isBefore(version: string, than: string): boolean {
  if (!/^\d+$/.test(version) || !/^\d+$/.test(than)) return false;
  return BigInt(version) < BigInt(than);
}
