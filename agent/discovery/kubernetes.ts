/** The endpoints of listeners that name a Service: one stream for each, whoever asks for it. */
import { now as clockNow, setTimer, type Timer } from '../clock.ts';
import type { Log } from '../log.ts';
import { LogLimiter } from '../log-limit.ts';
import type { Endpoint, EndpointSpec, Listener } from '../model.ts';
import { openSliceApi, type SliceApi } from './api.ts';
import { openCredentials } from './credentials.ts';
import type { LiveSource } from './endpoint-source.ts';
import { resolveEndpoints } from './endpoints.ts';
import { SliceReflector } from './slice-reflector.ts';

export interface KubernetesDependencies {
  readonly listeners: readonly Listener[];
  readonly log: Log;
  readonly api?: SliceApi;
  readonly timer?: Timer;
  readonly now?: () => number;
  readonly random?: () => number;
}

type ServiceSpec = Extract<EndpointSpec, { kind: 'kubernetes' }>;

interface Known {
  readonly version: number;
  readonly endpoints: readonly Endpoint[];
}

/** Asks nothing of the API server before `start`. */
export function openKubernetesSource({
  listeners,
  log,
  api = openSliceApi(openCredentials()),
  timer = setTimer,
  now = clockNow,
  random = Math.random,
}: KubernetesDependencies): LiveSource {
  const alerts = new LogLimiter({ log, now, timer });
  /** What was remarked of each listener's slices last, by its id. */
  const remarked = new Map<number, readonly string[]>();
  const known = new Map<number, Known>();
  let changed = () => {};
  const streams = new Map<string, SliceReflector>();
  for (const { endpoints: spec } of listeners) {
    if (spec.kind !== 'kubernetes' || streams.has(keyOf(spec))) continue;
    const { namespace, service } = spec;
    const onChange = () => changed();
    streams.set(keyOf(spec), new SliceReflector({ namespace, service, api, log, timer, now, random, onChange }));
  }

  const remark = (listener: Listener, { namespace, service }: ServiceSpec, remarks: readonly string[]) => {
    const fields = { listener: listener.name, namespace, service };
    for (const message of remarks) alerts.raise(`${listener.id} ${message}`, { message, fields });
    for (const old of remarked.get(listener.id) ?? []) {
      if (!remarks.includes(old)) alerts.resolve(`${listener.id} ${old}`, { message: `no longer: ${old}`, fields });
    }
    remarked.set(listener.id, remarks);
  };

  const resolve = (listener: Listener, spec: ServiceSpec, stream: SliceReflector): readonly Endpoint[] => {
    const { endpoints, unready, remarks } = resolveEndpoints(stream.slices ?? [], spec.port);
    remark(listener, spec, remarks);
    return spec.unready === 'last_resort' && unready.length > 0 ? [...endpoints, ...unready] : endpoints;
  };

  return {
    endpoints: (listener) => {
      const { endpoints: spec } = listener;
      const stream = spec.kind === 'kubernetes' ? streams.get(keyOf(spec)) : undefined;
      if (spec.kind !== 'kubernetes' || !stream?.slices) return undefined;
      const { version } = stream;
      const last = known.get(listener.id);
      if (last?.version === version) return last.endpoints;
      const endpoints = resolve(listener, spec, stream);
      known.set(listener.id, { version, endpoints });
      return endpoints;
    },
    start: (onChange) => {
      changed = onChange;
      for (const stream of streams.values()) void stream.run();
    },
    status: () => [...streams.values()].map((stream) => stream.status()),
    close: () => {
      for (const stream of streams.values()) stream.close();
      alerts.close();
    },
  };
}

/** Neither name can hold a slash (RFC 1123 labels). */
function keyOf({ namespace, service }: ServiceSpec): string {
  return `${namespace}/${service}`;
}
