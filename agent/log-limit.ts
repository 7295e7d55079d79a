/**
 * "Say it once", for whoever has something to complain about. A trouble is said when it begins, again every five minutes
 * for as long as it lasts, whether anybody complains meanwhile or not, and when it is over; the next one is news again,
 * however soon it comes. What comes and goes is said three times in five minutes: the rest is counted and summed up in one
 * line, so that a log is never full of one trouble and never silent about it.
 */

import type { Timer } from './clock.ts';
import type { Fields, Log, LogLevel } from './log.ts';

/** After so long, what still lasts is said again, and what came and went too often is summed up. */
const REPEAT_MS = 300_000;
const REPEAT_WORDS = '5 minutes';
/** Beginnings within that time that are said one by one. */
const MOST_SAID = 3;

export interface LogLimiterDependencies {
  readonly log: Log;
  /** Milliseconds that only grow, as performance.now. */
  readonly now: () => number;
  readonly timer: Timer;
}

export interface Line {
  readonly message: string;
  readonly fields?: Fields;
}

/** What a trouble says of itself. */
export interface Alert extends Line {
  readonly level?: Extract<LogLevel, 'info' | 'warn' | 'error'>;
  /** A trouble that goes on for another cause is news too; by default the message itself. */
  readonly cause?: string;
}

interface AlertState {
  lasts: boolean;
  /** Of this episode: when each cause was said last. */
  readonly said: Map<string, number>;
  /** Whether this episode is said, and so its end. */
  loud: boolean;
  /** When the episodes that were said began, in the last five minutes. */
  begins: readonly number[];
  /** Episodes since then that were only counted. */
  unsaid: number;
  last: Alert;
  cancelSummary: (() => void) | undefined;
  /** Set while the episode lasts and is said. */
  cancelRepeat: (() => void) | undefined;
}

export class LogLimiter {
  readonly #deps: LogLimiterDependencies;
  readonly #all = new Map<string, AlertState>();
  #closed = false;

  constructor(dependencies: LogLimiterDependencies) {
    this.#deps = dependencies;
  }

  /** The subject is in trouble, perhaps still. True if that was said now. */
  raise(subject: string, alert: Alert): boolean {
    if (this.#closed) return false;
    const state = this.#all.get(subject) ?? this.#open(subject, alert);
    state.last = alert;
    if (!state.lasts) this.#begin(state);
    if (!state.loud || this.#restOf(state) > 0) return false;
    state.said.set(causeOf(alert), this.#deps.now());
    this.#say(alert);
    this.#repeatLater(state);
    return true;
  }

  /** All is well with the subject, perhaps as before: false. Said, at `info`, if its trouble was. */
  resolve(subject: string, { message, fields }: Line): boolean {
    const state = this.#all.get(subject);
    if (!state?.lasts) return false;
    state.lasts = false;
    state.cancelRepeat?.();
    state.cancelRepeat = undefined;
    if (state.loud) this.#deps.log.info(message, fields);
    return true;
  }

  /** Nobody has the subject any more: not even that its trouble is over is said. */
  forget(subject: string): void {
    const state = this.#all.get(subject);
    state?.cancelSummary?.();
    state?.cancelRepeat?.();
    this.#all.delete(subject);
  }

  /** Says nothing more. */
  close(): void {
    this.#closed = true;
    for (const subject of this.#all.keys()) this.forget(subject);
  }

  #open(subject: string, last: Alert): AlertState {
    this.#forgetOld();
    const state = {
      lasts: false,
      said: new Map(),
      loud: true,
      begins: [],
      unsaid: 0,
      last,
      cancelSummary: undefined,
      cancelRepeat: undefined,
    };
    this.#all.set(subject, state);
    return state;
  }

  #begin(state: AlertState): void {
    const now = this.#deps.now();
    state.lasts = true;
    state.said.clear();
    state.begins = state.begins.filter((at) => now - at < REPEAT_MS);
    state.loud = state.begins.length < MOST_SAID;
    if (state.loud) {
      state.begins = [...state.begins, now];
      return;
    }
    state.unsaid++;
    state.cancelSummary ??= this.#deps.timer(state.begins[0]! + REPEAT_MS - now, () => this.#sumUp(state));
  }

  /** Milliseconds until the last complaint may be said again; 0 or less if it may be said now. */
  #restOf({ said, last }: AlertState): number {
    return (said.get(causeOf(last)) ?? Number.NEGATIVE_INFINITY) + REPEAT_MS - this.#deps.now();
  }

  /** Who complains may be quiet for hours, for nothing changes: the trouble lasts all the same. */
  #repeatLater(state: AlertState): void {
    state.cancelRepeat?.();
    state.cancelRepeat = this.#deps.timer(this.#restOf(state), () => this.#repeat(state));
  }

  /** The last cause may be a newer one than that which is due: its time comes later. */
  #repeat(state: AlertState): void {
    if (this.#restOf(state) <= 0) {
      state.said.set(causeOf(state.last), this.#deps.now());
      this.#say(state.last);
    }
    this.#repeatLater(state);
  }

  /** Counts as if all that may be said had been: what goes on like this is one line every five minutes. */
  #sumUp(state: AlertState): void {
    const now = this.#deps.now();
    const { last, unsaid, lasts } = state;
    state.cancelSummary = undefined;
    state.unsaid = 0;
    state.begins = Array.from({ length: MOST_SAID }, () => now);
    if (lasts) {
      state.loud = true;
      state.said.set(causeOf(last), now);
      this.#repeatLater(state);
    }
    const sum = { more_times: unsaid, within: REPEAT_WORDS, now: lasts ? 'lasts' : 'over' };
    this.#say({ ...last, fields: { ...last.fields, ...sum } });
  }

  #say({ message, fields, level = 'warn' }: Alert): void {
    this.#deps.log[level](message, fields);
  }

  /** Subjects may be many and short-lived. */
  #forgetOld(): void {
    const now = this.#deps.now();
    for (const [subject, { lasts, begins, cancelSummary }] of this.#all) {
      if (!lasts && !cancelSummary && begins.every((at) => now - at >= REPEAT_MS)) this.#all.delete(subject);
    }
  }
}

function causeOf({ cause, message }: Alert): string {
  return cause ?? message;
}
