/** The metrics of health: what is known of each endpoint, and what the probes came to. Read at the scrape. */
import { Histogram, type Registry } from 'prom-client';
import { formatAddress } from '../address.ts';
import type { EndpointHealth } from '../health/health.ts';
import type { RoundTrips } from '../health/statistics.ts';
import type { Listener } from '../model.ts';
import { MetricSet } from './metric-set.ts';

export interface HealthSources {
  endpoints(): readonly EndpointHealth[];
  listeners(): readonly Listener[];
  failsOpen(listener: Listener): boolean;
  isLastResort(listener: Listener): boolean;
  readonly statistics: {
    readonly rounds: Readonly<Record<string, number>>;
    readonly hints: Readonly<Record<string, number>>;
    roundTrips(): RoundTrips;
  };
}

/** Adds them to the registry. */
export function registerHealth(registry: Registry, health: HealthSources): void {
  const set = new MetricSet(registry);
  const { rounds, hints } = health.statistics;
  const healthy = set.gauge(
    'udp_fanout_downstream_health',
    '0: the probes of the endpoint failed, the node has no way to it, or it is unready and has answered none; 1: else',
    'listener',
    'endpoint',
  );
  const failOpen = set.gauge(
    'udp_fanout_health_fail_open',
    '1: downstreams of the listener are in use only because all of them are down',
    'listener',
  );
  const lastResort = set.gauge(
    'udp_fanout_health_last_resort',
    '1: endpoints of the listener that are not ready are in use, because none is and they answer probes',
    'listener',
  );
  const probes = set.counter(
    'udp_fanout_health_probes_total',
    'Probes of downstreams, each with its repetitions within the timeout, by outcome',
    'outcome',
  );
  const hinted = set.counter(
    'udp_fanout_health_hints_total',
    'Signs of a dead downstream that brought its next probe forward',
    'hint',
  );
  set.onScrape(() => {
    for (const { listener, endpoint, healthy: is } of health.endpoints()) {
      healthy.set({ listener: listener.name, endpoint: formatAddress(endpoint.address) }, is ? 1 : 0);
    }
    for (const one of health.listeners()) {
      failOpen.set({ listener: one.name }, health.failsOpen(one) ? 1 : 0);
      lastResort.set({ listener: one.name }, health.isLastResort(one) ? 1 : 0);
    }
    for (const [outcome, count] of Object.entries(rounds)) probes.inc({ outcome }, count);
    for (const [hint, count] of Object.entries(hints)) hinted.inc({ hint }, count);
  });
  registerRoundTrips(registry, () => health.statistics.roundTrips());
}

/** prom-client's histogram wants to observe each value itself; here the buckets are filled already. */
function registerRoundTrips(registry: Registry, read: () => RoundTrips): void {
  const name = 'udp_fanout_health_round_trip_seconds';
  const help = 'Time from a probe to its answer';
  const value = (suffix: string, number: number, labels: { le?: number | string } = {}) => {
    return { metricName: `${name}_${suffix}`, value: number, labels, sharedLabels: {} };
  };
  // What the registry asks a histogram for, and what its own `get` makes JSON of.
  const getForPromString = async () => {
    const { bounds, counts, sum } = read();
    let below = 0;
    const buckets = counts.map((count, index) => {
      below += count;
      return value('bucket', below, { le: bounds[index] ?? '+Inf' });
    });
    const values = [...buckets, value('sum', sum), value('count', below)];
    return { name, help, type: 'histogram', aggregator: 'sum', values };
  };
  Object.assign(new Histogram({ name, help, registers: [registry] }), { getForPromString });
}
