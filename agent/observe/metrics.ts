/**
 * Every metric of the agent, defined here and read at the scrape from where the numbers live: no other module counts
 * anything for us. Counters count datagrams, and bytes of UDP payload.
 */
import { Counter, Gauge, Registry } from 'prom-client';
import type { ListenerCounters } from '../datapath/datapath.ts';
import { type DiscoveryStream, registerDiscovery } from './discovery.ts';
import { type HealthSources, registerHealth } from './health.ts';

export interface MetricSources {
  readonly version: string;
  readonly counters: () => readonly ListenerCounters[];
  readonly unready: () => readonly string[];
  /** Errors that nobody expected, by where they came up. */
  readonly internalErrors: () => ReadonlyMap<string, number>;
  readonly discovery: () => readonly DiscoveryStream[];
  readonly health: HealthSources;
}

/** The registry behind GET /metrics. */
export function openMetrics(sources: MetricSources): Registry {
  const registry = new Registry();
  const on = { registers: [registry] };
  const datagrams = { labelNames: ['listener', 'mode'] as const, ...on };
  const reasons = { labelNames: ['listener', 'mode', 'reason'] as const, ...on };
  const endpoints = { labelNames: ['listener', 'endpoint'] as const, ...on };

  const received = new Counter({
    name: 'udp_fanout_packets_received_total',
    help: 'Datagrams that reached the listener',
    ...datagrams,
  });
  const forwarded = new Counter({
    name: 'udp_fanout_packets_forwarded_total',
    help: 'Datagrams sent to a downstream',
    ...datagrams,
  });
  const dropped = new Counter({
    name: 'udp_fanout_packets_dropped_total',
    help: 'Datagrams lost here, by reason',
    ...reasons,
  });
  const toStack = new Counter({
    name: 'udp_fanout_packets_to_stack_total',
    help: 'Datagrams of the listener left to the network stack, by reason',
    ...reasons,
  });
  const bytesReceived = new Counter({
    name: 'udp_fanout_bytes_received_total',
    help: 'Bytes of UDP payload that reached the listener',
    ...datagrams,
  });
  const bytesForwarded = new Counter({
    name: 'udp_fanout_bytes_forwarded_total',
    help: 'Bytes of UDP payload sent to a downstream',
    ...datagrams,
  });
  const active = new Gauge({
    name: 'udp_fanout_downstream_active',
    help: 'Downstreams that the listener sends to now',
    labelNames: ['listener'] as const,
    ...on,
  });
  const downstream = new Counter({
    name: 'udp_fanout_downstream_packets_total',
    help: 'Datagrams sent to the downstream',
    ...endpoints,
  });
  const ready = new Gauge({ name: 'udp_fanout_ready', help: '1: /readyz answers 200', ...on });
  const failures = new Counter({
    name: 'udp_fanout_scrape_failures_total',
    help: 'Scrapes at which the counters could not be read',
    ...on,
  });
  new Gauge({ name: 'udp_fanout_build_info', help: 'Always 1', labelNames: ['version'] as const, ...on }).set(
    { version: sources.version },
    1,
  );

  const deaths = new Counter({
    name: 'udp_fanout_worker_deaths_total',
    help: 'Threads that forwarded for the listener, died and were started again',
    labelNames: ['listener'] as const,
    ...on,
  });

  new Counter({
    name: 'udp_fanout_internal_errors_total',
    help: 'Errors of the agent itself that it outlived, by where they came up',
    labelNames: ['where'] as const,
    ...on,
    collect() {
      this.reset();
      for (const [where, count] of sources.internalErrors()) this.inc({ where }, count);
    },
  });

  const all = [received, forwarded, dropped, toStack, bytesReceived, bytesForwarded, active, downstream, deaths];
  const read = () => {
    const rows = sources.counters();
    for (const metric of all) metric.reset();
    for (const row of rows) {
      const labels = { listener: row.listener.name, mode: row.mode };
      received.inc(labels, row.received);
      forwarded.inc(labels, row.forwarded);
      bytesReceived.inc(labels, row.bytesReceived);
      bytesForwarded.inc(labels, row.bytesForwarded);
      for (const [reason, count] of row.dropped) dropped.inc({ ...labels, reason }, count);
      for (const [reason, count] of row.toStack) toStack.inc({ ...labels, reason }, count);
      active.set({ listener: row.listener.name }, row.downstreams.size);
      if (row.workerDeaths !== undefined) deaths.inc({ listener: row.listener.name }, row.workerDeaths);
      for (const [endpoint, count] of row.downstreams) {
        downstream.inc({ listener: row.listener.name, endpoint }, count);
      }
    }
  };
  // The first metric that the registry asks reads for all of them, so that one scrape shows one moment.
  Object.assign(received, {
    collect: () => {
      ready.set(sources.unready().length === 0 ? 1 : 0);
      try {
        read();
      } catch {
        failures.inc();
      }
    },
  });
  registerDiscovery(registry, sources.discovery);
  registerHealth(registry, sources.health);
  return registry;
}
