/**
 * What a test has sent, received and started, kept without its doing, so that whoever closes its books finds what is
 * lost without a name: sent = received + dropped, by sequence number, and forwarded = received. What a file starts before
 * its tests is in the books of each, from where its counters stand then.
 */
import type { Agent } from './agent.ts';
import { patient } from './patience.ts';
import type { Receivers, Report, Sent } from './traffic.ts';
import { type Union, union } from './union.ts';

/** Longer than what the agent keeps for a neighbour that is asked for. */
const SETTLED_MS = patient(4000);

type Counters = ReadonlyMap<string, number>;
type Accountable = Pick<Agent, 'account' | 'host' | 'hasEnded' | 'goesOn'>;

interface Totals {
  readonly received: number;
  readonly forwarded: number;
  readonly dropped: number;
  /** By queues and devices, after it was forwarded. */
  readonly egress: number;
  /** Forwarded by their first fragment, and the rest lost. */
  readonly torn: number;
  /** False where an agent's last word may have been in the middle of things. */
  readonly settles: boolean;
}

export class Books {
  readonly sent: Sent[] = [];
  readonly reports: Report[] = [];
  readonly receivers = new Set<Pick<Receivers, 'report'>>();
  /** In the order of their start, with their counters as these books were opened. */
  readonly agents = new Map<Accountable, Counters | undefined>();
  /** How many datagrams may be lost without a name. */
  #excused = 0;
  readonly #settleMs: number;

  /** So long what is not there yet may take. */
  constructor(settleMs = SETTLED_MS) {
    this.#settleMs = settleMs;
  }

  /** Books of one test, in a file that has started what is in these. */
  async forTest(): Promise<Books> {
    const books = new Books(this.#settleMs);
    for (const receivers of this.receivers) books.receivers.add(receivers);
    for (const agent of this.agents.keys()) if (!agent.hasEnded) books.agents.set(agent, await agent.account());
    return books;
  }

  excuse(atMost: number): void {
    this.#excused += atMost;
  }

  /** Throws where the sums do not come out. */
  async close(): Promise<void> {
    if (this.sent.every(({ count }) => count === 0) || this.reports.length + this.receivers.size === 0) return;
    const sent = this.sent.reduce((sum, { count }) => sum + count, 0);
    for (let quiet = 100, end = performance.now() + this.#settleMs; ; quiet = 200) {
      // A report goes into these books by itself.
      for (const receivers of this.receivers) await receivers.report({ quiet });
      const faults = this.#faults(sent, this.#union(), await this.#totals());
      if (faults.length === 0) return;
      if (performance.now() >= end) throw new Error(`the books do not close: ${faults.join('; ')}`);
    }
  }

  #union(): Union {
    return union(this.reports, { streams: this.sent.flatMap(({ streams }) => streams) });
  }

  async #totals(): Promise<Totals | undefined> {
    const accounts: { agent: Accountable; base: Counters | undefined; counters: Counters }[] = [];
    for (const [agent, base] of this.agents) {
      const counters = await agent.account();
      // One that goes on where another one has stopped has that one's counters too.
      const before = agent.goesOn ? accounts.findIndex((account) => account.agent.host === agent.host) : -1;
      const [replaced] = before < 0 ? [] : accounts.splice(before, 1);
      if (counters) accounts.push({ agent, base: replaced ? replaced.base : base, counters });
    }
    if (accounts.length === 0) return undefined;
    const sum = (name: string) => {
      const of = (counters: Counters | undefined) =>
        [...(counters ?? [])].reduce(
          (total, [key, value]) => total + (key.startsWith(`udp_fanout_${name}{`) ? value : 0),
          0,
        );
      return accounts.reduce((total, { base, counters }) => total + of(counters) - of(base), 0);
    };
    return {
      received: sum('packets_received_total'),
      forwarded: sum('packets_forwarded_total'),
      dropped: sum('packets_dropped_total'),
      egress: sum('egress_drops_total'),
      torn: sum('packets_torn_total'),
      settles: [...this.agents.keys()].every(({ hasEnded, goesOn }) => !hasEnded && !goesOn),
    };
  }

  #faults(sent: number, { received, duplicated }: Union, totals: Totals | undefined): string[] {
    const { dropped, egress, torn } = totals ?? { dropped: 0, egress: 0, torn: 0 };
    const faults: string[] = [];
    if (duplicated.length > 0) faults.push(`came more than once: ${JSON.stringify(duplicated.slice(0, 5))}`);
    if (sent - received > dropped + torn + egress + this.#excused) {
      faults.push(
        `${sent} sent, ${received} received, ${dropped} dropped by name, ${torn} torn, ${egress} on the way out, ${this.#excused} excused`,
      );
    }
    if (totals) faults.push(...this.#accountFaults(sent, received, totals));
    return faults;
  }

  /** What the agents say of themselves, and of what has come. */
  #accountFaults(sent: number, arrived: number, totals: Totals): string[] {
    const { received, forwarded, dropped, torn, egress, settles } = totals;
    const whole = forwarded - torn;
    const faults: string[] = [];
    if (settles && received !== forwarded + dropped) {
      faults.push(`the agents received ${received}, forwarded ${forwarded}, dropped ${dropped}`);
    }
    const amount = `${forwarded} forwarded, ${torn} of them torn, ${arrived} received`;
    // With what others send, or two agents in a row, theirs are more than ours.
    if (received <= sent && whole > arrived + egress + this.#excused) faults.push(amount);
    // With all that was sent, and nothing else, there is nothing that came another way.
    if (received === sent && settles && whole < arrived) faults.push(amount);
    return faults;
  }
}

let open: Books | undefined;

/** The books that are open, if any are. */
export function books(): Books | undefined {
  return open;
}

/** Opens new books; undefined closes them unread. */
export function openBooks(next: Books | undefined): void {
  open = next;
}

/** So many of this test's datagrams, at most, may be lost without a name, and why. */
export function loses(_why: string, { atMost }: { readonly atMost: number }): void {
  open?.excuse(atMost);
}
