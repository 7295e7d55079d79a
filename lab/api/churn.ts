/** Many changes of a Service in a given time: the storm that a controller raises when everything rolls at once. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { FakeApi } from './server.ts';
import { anEndpoint, aSlice } from './slices.ts';

export interface Churn {
  readonly namespace: string;
  readonly service: string;
  readonly slices: number;
  readonly perSlice: number;
  readonly events: number;
  readonly perSecond: number;
}

/** Applies one slice after the other, in each of which another endpoint is not ready; after the last all are ready. */
export async function churn(api: FakeApi, { events, perSecond, ...service }: Churn): Promise<void> {
  const started = performance.now();
  for (let event = 0; event < events; event++) {
    const isLastRound = event >= events - service.slices;
    const unready = isLastRound ? undefined : event % service.perSlice;
    api.apply(service.namespace, numberedSlice(service.service, event % service.slices, service.perSlice, unready));
    const due = ((event + 1) * 1000) / perSecond;
    const early = due - (performance.now() - started);
    if (early >= 1) await sleep(early);
  }
}

/** Slice `slice` of a Service: endpoints 10.(100 + slice).0.1 and on, one of them perhaps not ready. */
export function numberedSlice(service: string, slice: number, endpoints: number, unready?: number) {
  const all = Array.from({ length: endpoints }, (_, index) =>
    anEndpoint(`10.${100 + slice}.${(index + 1) >> 8}.${(index + 1) & 255}`, { ready: index !== unready }),
  );
  return aSlice(`${service}-${slice}`, all, { service });
}
