/**
 * Every metric of the agent, defined here and read at the scrape from where the numbers live: no other module counts
 * anything for us. Counters count datagrams, and bytes of UDP payload.
 */
import { Counter, Registry } from 'prom-client';
import type { ListenerCounters } from '../datapath/datapath.ts';
import { type DiscoveryStream, registerDiscovery } from './discovery.ts';
import { type HealthSources, registerHealth } from './health.ts';
import { MetricSet } from './metric-set.ts';

export interface MetricSources {
  readonly version: string;
  readonly counters: () => readonly ListenerCounters[];
  /** Packets dropped on the way out, by interface that leads to a downstream. */
  readonly egressDrops: () => ReadonlyMap<string, number>;
  readonly unready: () => readonly string[];
  /** Whether the config file is followed as it is, and since when, in seconds since 1970. */
  readonly reload: () => { readonly successful: boolean; readonly at: number };
  /** Errors that nobody expected, by where they came up. */
  readonly internalErrors: () => ReadonlyMap<string, number>;
  readonly discovery: () => readonly DiscoveryStream[];
  readonly health: HealthSources;
}

/** The registry behind GET /metrics. */
export function openMetrics(sources: MetricSources): Registry {
  const registry = new Registry();
  registerDatapath(registry, sources);
  registerAgent(registry, sources);
  registerDiscovery(registry, sources.discovery);
  registerHealth(registry, sources.health);
  return registry;
}

function registerDatapath(registry: Registry, { counters, egressDrops }: MetricSources): void {
  const set = new MetricSet(registry);
  const datagrams = ['listener', 'mode'] as const;
  const reasons = ['listener', 'mode', 'reason'] as const;
  const received = set.counter(
    'udp_fanout_packets_received_total',
    'Datagrams that reached the listener',
    ...datagrams,
  );
  const forwarded = set.counter('udp_fanout_packets_forwarded_total', 'Datagrams sent to a downstream', ...datagrams);
  const dropped = set.counter('udp_fanout_packets_dropped_total', 'Datagrams lost here, by reason', ...reasons);
  const torn = set.counter(
    'udp_fanout_packets_torn_total',
    'Datagrams in fragments, forwarded by their first one, whose rest was lost here, by reason',
    ...reasons,
  );
  const toSafetyNet = set.counter(
    'udp_fanout_packets_to_safety_net_total',
    'Datagrams that the program handed to the safety net, which forwards or drops them, by reason',
    ...reasons,
  );
  const passed = set.counter(
    'udp_fanout_packets_passed_total',
    "Datagrams on the listener's port that were not received, but left to whom they are for, by reason",
    ...reasons,
  );
  const bytesReceived = set.counter(
    'udp_fanout_bytes_received_total',
    'Bytes of UDP payload that reached the listener',
    ...datagrams,
  );
  const bytesForwarded = set.counter(
    'udp_fanout_bytes_forwarded_total',
    'Bytes of UDP payload sent to a downstream',
    ...datagrams,
  );
  const active = set.gauge('udp_fanout_downstream_active', 'Downstreams that the listener sends to now', 'listener');
  const downstream = set.counter(
    'udp_fanout_downstream_packets_total',
    'Datagrams sent to the downstream, also one that has left; endpoint "other": to those that left long ago',
    'listener',
    'endpoint',
  );
  const egress = set.counter(
    'udp_fanout_egress_drops_total',
    "Packets that an interface which leads to downstreams, or its queue, dropped on the way out, others' among them",
    'interface',
  );
  const deaths = set.counter(
    'udp_fanout_worker_deaths_total',
    'Threads that forwarded for the listener, died and were started again',
    'listener',
  );
  const failures = new Counter({
    name: 'udp_fanout_scrape_failures_total',
    help: 'Scrapes at which the counters could not be read',
    registers: [registry],
  });
  let rows: readonly ListenerCounters[] = [];
  let drops: ReadonlyMap<string, number> = new Map();
  set.onScrape(() => {
    try {
      rows = counters();
      drops = egressDrops();
    } catch {
      // The last ones are shown again: a counter that falls to 0 would look like a restart.
      failures.inc();
    }
    for (const [name, packets] of drops) egress.inc({ interface: name }, packets);
    for (const row of rows) {
      const labels = { listener: row.listener.name, mode: row.mode };
      received.inc(labels, row.received);
      forwarded.inc(labels, row.forwarded);
      bytesReceived.inc(labels, row.bytesReceived);
      bytesForwarded.inc(labels, row.bytesForwarded);
      for (const [reason, count] of row.dropped) dropped.inc({ ...labels, reason }, count);
      for (const [reason, count] of row.torn) torn.inc({ ...labels, reason }, count);
      for (const [reason, count] of row.toSafetyNet) toSafetyNet.inc({ ...labels, reason }, count);
      for (const [reason, count] of row.passed) passed.inc({ ...labels, reason }, count);
      active.set({ listener: row.listener.name }, row.downstreams.size);
      if (row.workerDeaths !== undefined) deaths.inc({ listener: row.listener.name }, row.workerDeaths);
      for (const [endpoint, count] of [...row.downstreams, ...row.gone]) {
        downstream.inc({ listener: row.listener.name, endpoint }, count);
      }
    }
  });
}

function registerAgent(registry: Registry, { version, unready, reload, internalErrors }: MetricSources): void {
  const set = new MetricSet(registry);
  const ready = set.gauge('udp_fanout_ready', '1: /readyz answers 200');
  const build = set.gauge('udp_fanout_build_info', 'Always 1', 'version');
  const followed = set.gauge(
    'udp_fanout_config_last_reload_successful',
    '1: the config file is followed as it is; 0: it was edited and is refused',
  );
  const followedAt = set.gauge(
    'udp_fanout_config_last_reload_success_timestamp_seconds',
    'When the config that is followed was read, in seconds since 1970',
  );
  const errors = set.counter(
    'udp_fanout_internal_errors_total',
    'Errors of the agent itself that it outlived, by where they came up',
    'where',
  );
  set.onScrape(() => {
    ready.set(unready().length === 0 ? 1 : 0);
    build.set({ version }, 1);
    const { successful, at } = reload();
    followed.set(successful ? 1 : 0);
    followedAt.set(at);
    for (const [where, count] of internalErrors()) errors.inc({ where }, count);
  });
}
