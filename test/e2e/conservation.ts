/** The conservation law: received = forwarded + dropped, each datagram with a named fate, whichever way it took. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import type { Agent } from '../../lab/agent.ts';
import { patient } from '../../lab/patience.ts';

export interface Ledger {
  readonly received: number;
  readonly forwarded: number;
  /** Those that took the slow way, by reason, those at 0 left out. */
  readonly toSafetyNet: Readonly<Record<string, number>>;
  readonly dropped: Readonly<Record<string, number>>;
  /** Forwarded by their first fragment, and the rest lost, by reason. */
  readonly torn: Readonly<Record<string, number>>;
  /** Forwarded, by downstream. */
  readonly downstreams: Readonly<Record<string, number>>;
}

/** How many datagrams a listener must have received: exactly so many, or where nobody can know, at least. */
export type Wanted = number | { readonly atLeast: number };

/**
 * A listener's counters as /metrics shows them. Waits for the datagrams that it must have received, and fails where these
 * are others or the counters do not add up. Totals and downstreams lie in two maps, read one after the other: while
 * datagrams come it may take more than one look to see both at one moment.
 */
export async function ledger(agent: Agent, listener: string, wanted: Wanted): Promise<Ledger> {
  const least = typeof wanted === 'number' ? wanted : wanted.atLeast;
  let books = await read(agent, listener);
  const isEarly = () =>
    books.received < least ||
    sum(books.downstreams) !== books.forwarded ||
    books.forwarded + sum(books.dropped) < books.received;
  for (const end = performance.now() + patient(5000); isEarly() && performance.now() < end; ) {
    await sleep(10);
    books = await read(agent, listener);
  }
  const what = `received by listener "${listener}"`;
  if (typeof wanted === 'number') expect(books.received, what).toBe(wanted);
  else expect(books.received, what).toBeGreaterThanOrEqual(least);
  expect(books.forwarded + sum(books.dropped), 'the sum of all fates').toBe(books.received);
  expect(sum(books.downstreams), 'the sum of all downstreams').toBe(books.forwarded);
  return books;
}

async function read(agent: Agent, listener: string): Promise<Ledger> {
  const metrics = [...(await agent.metrics())].map(([key, value]) => ({ ...parseKey(key), value }));
  const of = (name: string) =>
    metrics.filter((metric) => metric.name === `udp_fanout_${name}` && metric.labels.listener === listener);
  const total = (name: string) => of(name).reduce((all, { value }) => all + value, 0);
  const by = (name: string, label: string) => {
    const counts: Record<string, number> = {};
    for (const { labels, value } of of(name)) if (value) counts[labels[label]!] = (counts[labels[label]!] ?? 0) + value;
    return counts;
  };
  expect(of('packets_received_total'), `listener "${listener}" has metrics`).not.toHaveLength(0);
  return {
    received: total('packets_received_total'),
    forwarded: total('packets_forwarded_total'),
    toSafetyNet: by('packets_to_safety_net_total', 'reason'),
    dropped: by('packets_dropped_total', 'reason'),
    torn: by('packets_torn_total', 'reason'),
    downstreams: by('downstream_packets_total', 'endpoint'),
  };
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((all, count) => all + count, 0);
}

function parseKey(key: string): { name: string; labels: Record<string, string> } {
  const [, name = key, inside = ''] = /^([^{]+)\{(.*)\}$/.exec(key) ?? [];
  return { name, labels: Object.fromEntries([...inside.matchAll(/(\w+)="([^"]*)"/g)].map(([, k, v]) => [k!, v!])) };
}
