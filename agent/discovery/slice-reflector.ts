/**
 * The slices of one Service, kept up to date: a list, then watches from where it ended for as long as each ends in
 * good order. Whatever else happens leads back to the list after a pause, and a list replaces all that is known; so does
 * one after hours without a word, so that no change can be missed for good. Until then the last slices stay in use.
 */

import type { Timer } from '../clock.ts';
import type { Log } from '../log.ts';
import { LogLimiter } from '../log-limit.ts';
import type { Selection, SliceApi, SliceList, WatchEvent } from './api.ts';
import { Backoff } from './backoff.ts';
import { ContinuousWatch } from './continuous-watch.ts';
import { countStates } from './endpoints.ts';
import { ApiFailure, CAUSES, type Cause } from './failure.ts';
import { MissingSlices } from './missing-slices.ts';
import { missingRole } from './rbac-hint.ts';
import type { EndpointState, Slice } from './slice.ts';
import { SliceStore } from './slice-store.ts';

export interface ReflectorDependencies extends Selection {
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

const HOUR_MS = 3_600_000;

export const TIMES = {
  listMs: 30_000,
  /** Headers that do not come by then do not come. */
  openMs: 30_000,
  /** Bookmarks come about every minute where there is something new to say (KEP-956); after so much silence we ask. */
  silenceMs: 100_000,
  /**
   * A server whose etcd was set back behind a load balancer that keeps our connection has nothing to say to a version
   * of its future. Other silence of hours is a cluster at rest, which one list in six to twelve hours does not disturb.
   */
  unheardMs: { least: 6 * HOUR_MS, spread: 6 * HOUR_MS },
  /** A watch ends after five to ten minutes, as client-go's do, and at another time for each agent. */
  watchSeconds: { least: 300, spread: 300 },
  /** A shorter watch, even if it ended in good order, is a server that goes away. */
  shortWatchMs: 5000,
  /** After so long a watch, a failure is a first one again. */
  steadyMs: 10_000,
} as const;

/** What goes wrong here is one trouble, whatever its cause. */
const TROUBLE = 'stream';

export class SliceReflector {
  readonly #deps: ReflectorDependencies;
  readonly #backoff: Backoff;
  readonly #alerts: LogLimiter;
  readonly #missing: MissingSlices;
  readonly #store = new SliceStore();
  readonly #errors = Object.fromEntries(CAUSES.map((cause) => [cause, 0])) as Record<Cause, number>;
  #version = 0;
  #resourceVersion = '';
  #connected = false;
  /** No watch has had to stand up again lately: the next that does is back for good, as far as we know. */
  #steady = true;
  #cancelSteady = () => {};
  #lists = 0;
  #lastSign: number | undefined;
  #lastEvent: number | undefined;
  /** When silence is too long to go on without a list. */
  #unheardUntil = 0;
  #request: { close(): void } | undefined;
  #endPause: (() => void) | undefined;
  #closed = false;

  constructor(dependencies: ReflectorDependencies) {
    this.#deps = dependencies;
    this.#backoff = new Backoff(dependencies);
    this.#alerts = new LogLimiter(dependencies);
    this.#missing = new MissingSlices({ ...dependencies, alerts: this.#alerts });
  }

  /** What the API server said last; undefined before it said anything. */
  get slices(): Iterable<Slice> | undefined {
    return this.#store.all;
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
        while (!this.#closed && !this.#isUnheard()) await this.#watch();
      } catch (error) {
        if (this.#closed) return;
        await this.#pause(this.#failed(verb, error));
      }
    }
  }

  status(): StreamStatus {
    const { namespace, service, now } = this.#deps;
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
      malformed: this.#store.malformed,
    };
  }

  close(): void {
    this.#closed = true;
    this.#request?.close();
    this.#endPause?.();
    this.#cancelSteady();
    this.#missing.close();
    this.#alerts.close();
  }

  async #list(): Promise<void> {
    this.#backoff.listing();
    const { items, resourceVersion } = await this.#guardedList();
    // Counted when answered: a server that is away is not being relisted.
    this.#lists++;
    this.#store.replace(items);
    this.#resourceVersion = resourceVersion;
    this.#heard();
    this.#changed();
  }

  /** A list that is broken off after a time. */
  async #guardedList(): Promise<SliceList> {
    const { timer, api } = this.#deps;
    const request = new AbortController();
    const { signal } = request;
    this.#request = { close: () => request.abort() };
    const failure = new ApiFailure('timeout', `no answer for ${TIMES.listMs / 1000} s`);
    const cancel = timer(TIMES.listMs, () => request.abort(failure));
    // What does not heed the signal, such as an authentication plugin that hangs, is left behind.
    const broken = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
    try {
      const answer = await Promise.race([api.list(this.#deps, signal), broken]);
      signal.throwIfAborted();
      return answer;
    } finally {
      cancel();
    }
  }

  async #watch(): Promise<void> {
    const { now, random, api, timer } = this.#deps;
    const { least, spread } = TIMES.watchSeconds;
    const started = now();
    const watch = new ContinuousWatch({
      api,
      selection: this.#deps,
      timer,
      openMs: TIMES.openMs,
      silenceMs: TIMES.silenceMs,
      version: () => this.#resourceVersion,
      timeoutSeconds: () => Math.round(least + random() * spread),
      onOpen: () => this.#opened(),
      onBytes: () => this.#heard(),
      onEvent: (event) => this.#take(event),
      wantsSuccessor: () => !this.#isUnheard(),
    });
    this.#request = watch;
    try {
      await watch.run();
    } finally {
      this.#connected = false;
      this.#cancelSteady();
      if (now() - started >= TIMES.steadyMs) this.#backoff.steady();
    }
    if (now() - started < TIMES.shortWatchMs) throw new ApiFailure('ended_early', 'the server ended the watch at once');
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
    this.#lastEvent = this.#deps.now();
    if (type === 'DELETED') this.#store.delete(object);
    else this.#store.put(object);
    this.#changed();
  }

  #changed(): void {
    this.#version++;
    this.#missing.set(this.#store.isEmpty);
    this.#deps.onChange();
  }

  /** That it follows again is said at once, but after a relapse only when it has done so for a while. */
  #opened(): void {
    const isSuccessor = this.#connected;
    this.#connected = true;
    this.#lastSign = this.#deps.now();
    if (isSuccessor) return;
    if (this.#steady) this.#steady = !this.#sayThatItFollows();
    this.#cancelSteady();
    this.#cancelSteady = this.#deps.timer(TIMES.steadyMs, () => {
      this.#steady = true;
      this.#sayThatItFollows();
    });
  }

  /** True if there was something to be over. */
  #sayThatItFollows(): boolean {
    const { namespace, service } = this.#deps;
    return this.#alerts.resolve(TROUBLE, {
      message: 'following EndpointSlices again',
      fields: { namespace, service },
    });
  }

  /** The API server told something. */
  #heard(): void {
    const { now, random } = this.#deps;
    const { least, spread } = TIMES.unheardMs;
    this.#lastSign = now();
    this.#unheardUntil = this.#lastSign + least + random() * spread;
  }

  #isUnheard(): boolean {
    return this.#deps.now() >= this.#unheardUntil;
  }

  /** Counts and says what went wrong; returns what the server asks us to wait, in milliseconds. */
  #failed(verb: 'list' | 'watch', error: unknown): number {
    const failure = error instanceof ApiFailure ? error : new ApiFailure('server_error', String(error));
    this.#errors[failure.reason]++;
    const { log, namespace, service } = this.#deps;
    const inUse = this.slices ? 'the last known endpoints stay in use' : 'no endpoints are known yet';
    const why = failure.reason === 'forbidden' ? forbidden(verb, namespace, failure.message) : failure.message;
    const message = `failed to ${verb} EndpointSlices: ${why}; ${inUse}`;
    const fields = { namespace, service, cause: failure.reason };
    const said = this.#alerts.raise(TROUBLE, { message, fields, cause: `${verb} ${failure.reason}` });
    if (!said) log.debug(message, fields);
    return failure.retryAfterMs;
  }

  async #pause(retryAfterMs: number): Promise<void> {
    const ms = this.#backoff.afterFailure(retryAfterMs);
    await new Promise<void>((resolve) => {
      const cancel = this.#deps.timer(ms, resolve);
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
