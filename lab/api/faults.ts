/** What a script makes the server do to requests, beyond what they deserve. */
import { failing, type Refusal } from './status.ts';

export type Verb = 'list' | 'watch';

export interface Fault {
  /** Which requests; absent: any. */
  readonly verb?: Verb;
  readonly namespace?: string;
  /** How many of them; 1. */
  readonly times?: number;
  /** `reset`: TCP RST; `hang`: no answer ever; `garbage`: 200 and no JSON; or an HTTP status. */
  readonly answer: 'reset' | 'hang' | 'garbage' | number;
  /** In seconds, or a date. */
  readonly retryAfter?: string;
  readonly message?: string;
}

export class Faults {
  #pending: { fault: Fault; left: number }[] = [];

  add(fault: Fault): void {
    this.#pending.push({ fault, left: fault.times ?? 1 });
  }

  /** The fault that this request meets, if any; it is used up by it. */
  take(verb: Verb, namespace: string): Fault | undefined {
    const meets = ({ fault }: { fault: Fault }) =>
      (fault.verb ?? verb) === verb && (fault.namespace ?? namespace) === namespace;
    const found = this.#pending.find(meets);
    if (!found) return undefined;
    found.left--;
    if (found.left === 0) this.#pending = this.#pending.filter((other) => other !== found);
    return found.fault;
  }
}

export function refusalOf({ answer, message }: Fault): Refusal {
  const refusal = failing(Number(answer));
  return message === undefined ? refusal : { ...refusal, message };
}
