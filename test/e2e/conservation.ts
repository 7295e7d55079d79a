/** The conservation law: received = forwarded + left to the stack + dropped, each datagram with a named fate. */
import { expect } from 'vitest';
import type { Agent } from '../lab/agent.ts';

export interface Ledger {
  readonly received: number;
  readonly forwarded: number;
  /** By reason, those at 0 left out. */
  readonly toStack: Readonly<Record<string, number>>;
  readonly dropped: Readonly<Record<string, number>>;
  /** Forwarded, by downstream. */
  readonly downstreams: Readonly<Record<string, number>>;
}

/** A listener's counters as /metrics shows them; fails where they do not add up. */
export async function ledger(agent: Agent, listener: string): Promise<Ledger> {
  const metrics = [...(await agent.metrics())].map(([key, value]) => ({ ...parseKey(key), value }));
  const of = (name: string) =>
    metrics.filter((metric) => metric.name === `udp_fanout_${name}` && metric.labels.listener === listener);
  const sum = (name: string) => of(name).reduce((total, { value }) => total + value, 0);
  const by = (name: string, label: string) =>
    Object.fromEntries(of(name).flatMap(({ labels, value }) => (value ? [[labels[label]!, value]] : [])));

  expect(of('packets_received_total'), `listener "${listener}" has metrics`).not.toHaveLength(0);
  expect(sum('packets_forwarded_total') + sum('packets_to_stack_total') + sum('packets_dropped_total')).toBe(
    sum('packets_received_total'),
  );
  expect(sum('downstream_packets_total')).toBe(sum('packets_forwarded_total'));
  return {
    received: sum('packets_received_total'),
    forwarded: sum('packets_forwarded_total'),
    toStack: by('packets_to_stack_total', 'reason'),
    dropped: by('packets_dropped_total', 'reason'),
    downstreams: by('downstream_packets_total', 'endpoint'),
  };
}

function parseKey(key: string): { name: string; labels: Record<string, string> } {
  const [, name = key, inside = ''] = /^([^{]+)\{(.*)\}$/.exec(key) ?? [];
  return { name, labels: Object.fromEntries([...inside.matchAll(/(\w+)="([^"]*)"/g)].map(([, k, v]) => [k!, v!])) };
}
