/** One round: up to three probes within one timeout, so that one lost packet condemns nobody. */
import type { Timer } from '../clock.ts';
import type { Hint, ProbeCallbacks } from './prober.ts';
import type { Outcome } from './state.ts';

const SENDS = 3;
const nothing = () => {};
/** A deadline that comes too late, by this share of the timeout, proves that this process slept, and nothing else. */
const LATE = 0.25;
/** Timers are late by so much on any busy machine. */
const USUAL_LATENESS_MS = 100;

export interface RoundDependencies {
  readonly send: (callbacks: ProbeCallbacks) => () => void;
  readonly timer: Timer;
  /** Milliseconds of a clock that never goes back. */
  readonly now: () => number;
  readonly timeoutMs: number;
  readonly onEnd: (end: RoundEnd) => void;
}

/** `void`: this process was not there to hear the answer, so that the round counts for nothing. */
export type RoundEnd =
  | { readonly outcome: 'answered'; readonly roundTripMs: number }
  | { readonly outcome: Exclude<Outcome, 'answered'>; readonly cause: string }
  | { readonly outcome: 'void' };

/** An end that says something about the downstream. */
export type CountedEnd = Exclude<RoundEnd, { outcome: 'void' }>;

export class Round {
  readonly #deps: RoundDependencies;
  readonly #forget: (() => void)[] = [];
  #started = 0;
  #cancelDeadline = nothing;
  #cancelResend = nothing;
  #sends = 0;
  #unsent = 0;
  #unsentCause = '';
  #hint: Hint | undefined;
  #ended = false;

  constructor(dependencies: RoundDependencies) {
    this.#deps = dependencies;
  }

  /** Sends the first probe; `hint` is what the round is begun for, if anything is. It may end within this call. */
  begin(hint?: Hint): void {
    const { now, timer, timeoutMs } = this.#deps;
    this.#hint = hint;
    this.#started = now();
    this.#cancelDeadline = timer(timeoutMs, () => this.#expire());
    this.#send();
  }

  /** Hurries the next probe, once a round: an error that comes back for each would use up all of them in no time. */
  hint(hint: Hint): void {
    const first = this.#hint === undefined;
    this.#hint = hint;
    if (first) this.#send();
  }

  /** Ends it without an outcome. */
  cancel(): void {
    this.#ended = true;
    this.#cancelDeadline();
    this.#cancelResend();
    for (const forget of this.#forget) forget();
  }

  #send(): void {
    if (this.#ended || this.#sends === SENDS) return;
    this.#sends++;
    this.#cancelResend();
    const { send, now, timer, timeoutMs } = this.#deps;
    const attempt = new Attempt(this, now());
    let forget = nothing;
    try {
      forget = send(attempt);
    } catch (error) {
      attempt.unsent((error as Error).message);
    }
    this.#forget.push(forget);
    // The answer may have come within the send.
    if (this.#ended) forget();
    else if (this.#sends < SENDS) this.#cancelResend = timer(timeoutMs / SENDS, () => this.#send());
  }

  /** Of an attempt: what it asked was answered. */
  answered(sentAt: number): void {
    this.#end({ outcome: 'answered', roundTripMs: this.#deps.now() - sentAt });
  }

  /** Of an attempt: a no. To ask again would use up the errors that the other side may send (icmp_ratelimit). */
  refused(hint: Hint): void {
    this.#end({ outcome: 'unanswered', cause: wordsOf(hint) });
  }

  /** Of an attempt: it did not leave this host. */
  unsent(cause: string): void {
    this.#unsent++;
    this.#unsentCause = cause;
  }

  #expire(): void {
    const { now, timeoutMs } = this.#deps;
    const lateMs = now() - this.#started - timeoutMs;
    if (lateMs > Math.max(timeoutMs * LATE, USUAL_LATENESS_MS)) this.#end({ outcome: 'void' });
    else if (this.#unsent === this.#sends) this.#end({ outcome: 'unsent', cause: this.#unsentCause });
    else this.#end({ outcome: 'unanswered', cause: causeOf(timeoutMs, this.#hint) });
  }

  #end(end: RoundEnd): void {
    if (this.#ended) return;
    this.cancel();
    this.#deps.onEnd(end);
  }
}

/** One probe of a round. A class, since probes are many and closures cost the collector more. */
class Attempt implements ProbeCallbacks {
  readonly #round: Round;
  readonly #sentAt: number;

  constructor(round: Round, sentAt: number) {
    this.#round = round;
    this.#sentAt = sentAt;
  }

  answer(): void {
    this.#round.answered(this.#sentAt);
  }

  refused(hint: Hint): void {
    this.#round.refused(hint);
  }

  unsent(cause: string): void {
    this.#round.unsent(cause);
  }
}

function causeOf(timeoutMs: number, hint: Hint | undefined): string {
  const within = `in ${timeoutMs / 1000} s`;
  if (hint === 'wrong_answer') return `none but wrong answers ${within}`;
  return hint === undefined ? `no answer ${within}` : `no answer ${within}, ${wordsOf(hint)}`;
}

function wordsOf(hint: Hint): string {
  return hint.replace('_', ' ');
}
