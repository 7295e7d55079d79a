/**
 * "Say it once", for whoever has something to complain about. A trouble is said when it begins, again every five minutes
 * for as long as it lasts, whether anybody complains meanwhile or not, and when it is over; the next one is news again,
 * however soon it comes. What comes and goes is said three times in five minutes: the rest is counted and summed up in one
 * line, so that a log is never full of one trouble and never silent about it.
 */
import type { Fields, Log, LogLevel } from './log.ts';
import type { Timer } from './reconciler.ts';

/** After so long, what still lasts is said again, and what came and went too often is summed up. */
const REPEAT_MS = 300_000;
const REPEAT_WORDS = '5 minutes';
/** Beginnings within that time that are said one by one. */
const MOST_SAID = 3;

export interface TroublesDependencies {
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
export interface Complaint extends Line {
  readonly level?: Extract<LogLevel, 'info' | 'warn' | 'error'>;
  /** A trouble that goes on for another cause is news too; by default the message itself. */
  readonly cause?: string;
}

interface Trouble {
  lasts: boolean;
  /** Of this episode: when each cause was said last. */
  readonly said: Map<string, number>;
  /** Whether this episode is said, and so its end. */
  loud: boolean;
  /** When the episodes that were said began, in the last five minutes. */
  begins: readonly number[];
  /** Episodes since then that were only counted. */
  unsaid: number;
  last: Complaint;
  cancelSummary: (() => void) | undefined;
  /** Set while the episode lasts and is said. */
  cancelRepeat: (() => void) | undefined;
}

export class Troubles {
  readonly #with: TroublesDependencies;
  readonly #all = new Map<string, Trouble>();
  #closed = false;

  constructor(dependencies: TroublesDependencies) {
    this.#with = dependencies;
  }

  /** The subject is in trouble, perhaps still. True if that was said now. */
  happens(subject: string, complaint: Complaint): boolean {
    if (this.#closed) return false;
    const trouble = this.#all.get(subject) ?? this.#open(subject, complaint);
    trouble.last = complaint;
    if (!trouble.lasts) this.#begin(trouble);
    if (!trouble.loud || this.#restOf(trouble) > 0) return false;
    trouble.said.set(causeOf(complaint), this.#with.now());
    this.#say(complaint);
    this.#repeatLater(trouble);
    return true;
  }

  /** All is well with the subject, perhaps as before: false. Said, at `info`, if its trouble was. */
  isOver(subject: string, { message, fields }: Line): boolean {
    const trouble = this.#all.get(subject);
    if (!trouble?.lasts) return false;
    trouble.lasts = false;
    trouble.cancelRepeat?.();
    trouble.cancelRepeat = undefined;
    if (trouble.loud) this.#with.log.info(message, fields);
    return true;
  }

  /** Says nothing more. */
  close(): void {
    this.#closed = true;
    for (const { cancelSummary, cancelRepeat } of this.#all.values()) {
      cancelSummary?.();
      cancelRepeat?.();
    }
    this.#all.clear();
  }

  #open(subject: string, last: Complaint): Trouble {
    this.#forgetOld();
    const trouble = {
      lasts: false,
      said: new Map(),
      loud: true,
      begins: [],
      unsaid: 0,
      last,
      cancelSummary: undefined,
      cancelRepeat: undefined,
    };
    this.#all.set(subject, trouble);
    return trouble;
  }

  #begin(trouble: Trouble): void {
    const now = this.#with.now();
    trouble.lasts = true;
    trouble.said.clear();
    trouble.begins = trouble.begins.filter((at) => now - at < REPEAT_MS);
    trouble.loud = trouble.begins.length < MOST_SAID;
    if (trouble.loud) {
      trouble.begins = [...trouble.begins, now];
      return;
    }
    trouble.unsaid++;
    trouble.cancelSummary ??= this.#with.timer(trouble.begins[0]! + REPEAT_MS - now, () => this.#sumUp(trouble));
  }

  /** Milliseconds until the last complaint may be said again; 0 or less if it may be said now. */
  #restOf({ said, last }: Trouble): number {
    return (said.get(causeOf(last)) ?? Number.NEGATIVE_INFINITY) + REPEAT_MS - this.#with.now();
  }

  /** Who complains may be quiet for hours, for nothing changes: the trouble lasts all the same. */
  #repeatLater(trouble: Trouble): void {
    trouble.cancelRepeat?.();
    trouble.cancelRepeat = this.#with.timer(this.#restOf(trouble), () => this.#repeat(trouble));
  }

  /** The last cause may be a newer one than that which is due: its time comes later. */
  #repeat(trouble: Trouble): void {
    if (this.#restOf(trouble) <= 0) {
      trouble.said.set(causeOf(trouble.last), this.#with.now());
      this.#say(trouble.last);
    }
    this.#repeatLater(trouble);
  }

  /** Counts as if all that may be said had been: what goes on like this is one line every five minutes. */
  #sumUp(trouble: Trouble): void {
    const now = this.#with.now();
    const { last, unsaid, lasts } = trouble;
    trouble.cancelSummary = undefined;
    trouble.unsaid = 0;
    trouble.begins = Array.from({ length: MOST_SAID }, () => now);
    if (lasts) {
      trouble.loud = true;
      trouble.said.set(causeOf(last), now);
      this.#repeatLater(trouble);
    }
    const sum = { more_times: unsaid, within: REPEAT_WORDS, now: lasts ? 'lasts' : 'over' };
    this.#say({ ...last, fields: { ...last.fields, ...sum } });
  }

  #say({ message, fields, level = 'warn' }: Complaint): void {
    this.#with.log[level](message, fields);
  }

  /** Subjects may be many and short-lived. */
  #forgetOld(): void {
    const now = this.#with.now();
    for (const [subject, { lasts, begins, cancelSummary }] of this.#all) {
      if (!lasts && !cancelSummary && begins.every((at) => now - at >= REPEAT_MS)) this.#all.delete(subject);
    }
  }
}

function causeOf({ cause, message }: Complaint): string {
  return cause ?? message;
}
