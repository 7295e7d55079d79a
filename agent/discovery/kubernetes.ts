/** The endpoints of listeners that name a Service: one stream for each, whoever asks for it. */
import { now as clockNow, setTimer } from '../clock.ts';
import type { Log } from '../log.ts';
import type { Endpoint, Listener, Source } from '../model.ts';
import type { Timer } from '../reconciler.ts';
import { Troubles } from '../troubles.ts';
import { openSliceApi, type SliceApi } from './api.ts';
import { openCredentials } from './credentials.ts';
import { resolveEndpoints } from './endpoints.ts';
import type { LiveSource } from './source.ts';
import { SliceStream } from './stream.ts';

export interface KubernetesDependencies {
  readonly listeners: readonly Listener[];
  readonly log: Log;
  readonly api?: SliceApi;
  readonly timer?: Timer;
  readonly now?: () => number;
  readonly random?: () => number;
}

type KubernetesSource = Extract<Source, { kind: 'kubernetes' }>;

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
  const troubles = new Troubles({ log, now, timer });
  /** What was remarked of each listener's slices last, by its id. */
  const remarked = new Map<number, readonly string[]>();
  const known = new Map<number, Known>();
  let changed = () => {};
  const streams = new Map<string, SliceStream>();
  for (const { source } of listeners) {
    if (source.kind !== 'kubernetes' || streams.has(keyOf(source))) continue;
    const { namespace, service } = source;
    const onChange = () => changed();
    streams.set(keyOf(source), new SliceStream({ namespace, service, api, log, timer, now, random, onChange }));
  }

  const remark = (listener: Listener, { namespace, service }: KubernetesSource, remarks: readonly string[]) => {
    const fields = { listener: listener.name, namespace, service };
    for (const message of remarks) troubles.happens(`${listener.id} ${message}`, { message, fields });
    for (const old of remarked.get(listener.id) ?? []) {
      if (!remarks.includes(old)) troubles.isOver(`${listener.id} ${old}`, { message: `no longer: ${old}`, fields });
    }
    remarked.set(listener.id, remarks);
  };

  const resolve = (listener: Listener, source: KubernetesSource, stream: SliceStream): readonly Endpoint[] => {
    const { endpoints, unready, remarks } = resolveEndpoints(stream.slices ?? [], source.port);
    remark(listener, source, remarks);
    return source.unready === 'last_resort' && unready.length > 0 ? [...endpoints, ...unready] : endpoints;
  };

  return {
    endpoints: (listener) => {
      const { source } = listener;
      const stream = source.kind === 'kubernetes' ? streams.get(keyOf(source)) : undefined;
      if (source.kind !== 'kubernetes' || !stream?.slices) return undefined;
      const { version } = stream;
      const last = known.get(listener.id);
      if (last?.version === version) return last.endpoints;
      const endpoints = resolve(listener, source, stream);
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
      troubles.close();
    },
  };
}

/** Neither name can hold a slash (RFC 1123 labels). */
function keyOf({ namespace, service }: KubernetesSource): string {
  return `${namespace}/${service}`;
}
