/** The metrics of health: what is known of each endpoint, and what the probes came to. Read at the scrape. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import { formatAddress } from '../address.ts';
import type { EndpointHealth } from '../health/health.ts';
import type { RoundTrips } from '../health/statistics.ts';
import type { Listener } from '../model.ts';

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
  const on = { registers: [registry] };
  const { rounds, hints } = health.statistics;
  new Gauge({
    name: 'udp_fanout_downstream_health',
    help: '0: the probes of the endpoint failed, or it is unready and has answered none; 1: else, also without probes',
    labelNames: ['listener', 'endpoint'] as const,
    ...on,
    collect() {
      this.reset();
      for (const { listener, endpoint, healthy } of health.endpoints()) {
        this.set({ listener: listener.name, endpoint: formatAddress(endpoint.address) }, healthy ? 1 : 0);
      }
    },
  });
  new Gauge({
    name: 'udp_fanout_health_fail_open',
    help: '1: downstreams of the listener are in use only because the probes of all of them failed',
    labelNames: ['listener'] as const,
    ...on,
    collect() {
      this.reset();
      for (const one of health.listeners()) this.set({ listener: one.name }, health.failsOpen(one) ? 1 : 0);
    },
  });
  new Gauge({
    name: 'udp_fanout_health_last_resort',
    help: '1: endpoints of the listener that are not ready are in use, because none is and they answer probes',
    labelNames: ['listener'] as const,
    ...on,
    collect() {
      this.reset();
      for (const one of health.listeners()) this.set({ listener: one.name }, health.isLastResort(one) ? 1 : 0);
    },
  });
  new Counter({
    name: 'udp_fanout_health_probes_total',
    help: 'Probes of downstreams, each with its repetitions within the timeout, by outcome',
    labelNames: ['outcome'] as const,
    ...on,
    collect() {
      this.reset();
      for (const [outcome, count] of Object.entries(rounds)) this.inc({ outcome }, count);
    },
  });
  new Counter({
    name: 'udp_fanout_health_hints_total',
    help: 'Signs of a dead downstream that brought its next probe forward',
    labelNames: ['hint'] as const,
    ...on,
    collect() {
      this.reset();
      for (const [hint, count] of Object.entries(hints)) this.inc({ hint }, count);
    },
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
