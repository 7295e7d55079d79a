/** The metrics of Kubernetes discovery, a set for each Service that a listener follows; read at the scrape. */
import type { Registry } from 'prom-client';
import { MetricSet } from './metric-set.ts';

/** What discovery tells of one Service. */
export interface DiscoveryStream {
  readonly namespace: string;
  readonly service: string;
  readonly connected: boolean;
  readonly ageSeconds?: number;
  readonly lastEventAgeSeconds?: number;
  readonly relists: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly endpoints: Readonly<Record<string, number>>;
  readonly malformed: number;
}

/** Adds them to the registry. A config without `kubernetes` has none of their series. */
export function registerDiscovery(registry: Registry, streams: () => readonly DiscoveryStream[]): void {
  const set = new MetricSet(registry);
  const service = ['namespace', 'service'] as const;
  const connected = set.gauge(
    'udp_fanout_discovery_connected',
    '1: a watch of the EndpointSlices of the Service stands',
    ...service,
  );
  const age = set.gauge(
    'udp_fanout_discovery_watch_age_seconds',
    'Seconds since the API server last answered for the Service: a list, a watch, an event or a bookmark; -1: never',
    ...service,
  );
  const lastEvent = set.gauge(
    'udp_fanout_discovery_last_event_timestamp_seconds',
    'When an EndpointSlice of the Service last changed under the watch, Unix time; 0: never',
    ...service,
  );
  const relists = set.counter(
    'udp_fanout_discovery_relists_total',
    'Lists of the EndpointSlices of the Service after the first',
    ...service,
  );
  const malformed = set.counter(
    'udp_fanout_discovery_malformed_total',
    'EndpointSlices and endpoints that could not be read and were skipped',
    ...service,
  );
  const errors = set.counter(
    'udp_fanout_discovery_errors_total',
    'Lists and watches that failed, by cause',
    ...service,
    'cause',
  );
  const endpoints = set.gauge(
    'udp_fanout_discovery_endpoints',
    'Endpoints of the Service by state: ready, draining (terminating, still serving), unready, terminating',
    ...service,
    'state',
  );
  set.onScrape(() => {
    for (const stream of streams()) {
      const labels = { namespace: stream.namespace, service: stream.service };
      const { lastEventAgeSeconds: since } = stream;
      connected.set(labels, stream.connected ? 1 : 0);
      age.set(labels, stream.ageSeconds ?? -1);
      lastEvent.set(labels, since === undefined ? 0 : Date.now() / 1000 - since);
      relists.inc(labels, stream.relists);
      malformed.inc(labels, stream.malformed);
      for (const [cause, count] of Object.entries(stream.errors)) errors.inc({ ...labels, cause }, count);
      for (const [state, count] of Object.entries(stream.endpoints)) endpoints.set({ ...labels, state }, count);
    }
  });
}
