/**
 * What a test has sent, received and started, kept without its doing, so that whoever closes its books finds what is
 * lost without a name: sent = received + dropped, by sequence number, and forwarded = received. Kept while they are open.
 */
import type { Agent } from './agent.ts';
import { patient } from './patience.ts';
import type { Receivers, Report, Sent } from './traffic.ts';
import { type Union, union } from './union.ts';

/** Longer than what the agent keeps for a neighbour that is asked for. */
const SETTLED_MS = patient(4000);

interface Totals {
  readonly received: number;
  readonly forwarded: number;
  readonly dropped: number;
  /** By queues and devices, after it was forwarded. */
  readonly egress: number;
  /** Forwarded by their first fragment, and the rest lost. */
  readonly torn: number;
}

export class Books {
  readonly sent: Sent[] = [];
  readonly reports: Report[] = [];
  readonly receivers = new Set<Pick<Receivers, 'report'>>();
  readonly agents = new Set<Pick<Agent, 'account'>>();
  /** Why datagrams may be lost without a name; '' where they may not. */
  excuse = '';

  readonly #settleMs: number;

  /** So long what is not there yet may take. */
  constructor(settleMs = SETTLED_MS) {
    this.#settleMs = settleMs;
  }

  /** Throws where the sums do not come out, and no test has said why they cannot. */
  async close(): Promise<void> {
    if (this.sent.every(({ count }) => count === 0) || this.reports.length + this.receivers.size === 0) return;
    const sent = this.sent.reduce((sum, { count }) => sum + count, 0);
    await this.#receive(100);
    let arrived = this.#union();
    let totals = await this.#totals();
    for (
      const end = performance.now() + this.#settleMs;
      this.#isOpen(sent, arrived, totals) && performance.now() < end;
    ) {
      await this.#receive(200);
      arrived = this.#union();
      totals = await this.#totals();
    }
    const faults = this.#faults(sent, arrived, totals);
    if (faults.length > 0) throw new Error(`the books do not close: ${faults.join('; ')}`);
  }

  async #receive(quiet: number): Promise<void> {
    // A report goes into these books by itself.
    for (const receivers of this.receivers) await receivers.report({ quiet });
  }

  #union(): Union {
    return union(this.reports, { streams: this.sent.flatMap(({ streams }) => streams) });
  }

  async #totals(): Promise<Totals | undefined> {
    const all = await Promise.all([...this.agents].map((agent) => agent.account()));
    const known = all.filter((metrics) => metrics !== undefined);
    if (known.length === 0) return undefined;
    const sum = (name: string) =>
      known
        .flatMap((metrics) => [...metrics])
        .reduce((total, [key, value]) => total + (key.startsWith(`udp_fanout_${name}{`) ? value : 0), 0);
    return {
      received: sum('packets_received_total'),
      forwarded: sum('packets_forwarded_total'),
      dropped: sum('packets_dropped_total'),
      egress: sum('egress_drops_total'),
      torn: sum('packets_torn_total'),
    };
  }

  #isOpen(sent: number, arrived: Union, totals: Totals | undefined): boolean {
    return (
      this.#faults(sent, arrived, totals).length > 0 ||
      (totals !== undefined && totals.received > totals.forwarded + totals.dropped)
    );
  }

  #faults(sent: number, { received, duplicated }: Union, totals: Totals | undefined): string[] {
    const { dropped, egress, torn } = totals ?? { dropped: 0, egress: 0, torn: 0 };
    const faults: string[] = [];
    if (duplicated.length > 0) faults.push(`came more than once: ${JSON.stringify(duplicated.slice(0, 5))}`);
    const lost = sent - received;
    if (lost > dropped + torn + egress && !this.excuse) {
      faults.push(
        `${sent} sent, ${received} received, ${dropped} dropped by name, ${torn} torn, ${egress} on the way out`,
      );
    }
    // Where the agents have received what was sent and nothing else, each sum is exact.
    const isAll = totals?.received === sent && egress === 0 && !this.excuse;
    if (isAll && totals.forwarded - torn !== received) {
      faults.push(`${totals.forwarded} forwarded, ${torn} of them torn, ${received} received`);
    }
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

/** This test's datagrams may be lost without a name, and why. */
export function loses(why: string): void {
  if (open) open.excuse = why;
}
