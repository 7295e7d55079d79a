/** The real agent in a lab's node, following Services of a fake API server beside it. */

import { type Agent, startAgent } from '../../lab/agent.ts';
import { numberedSlice } from '../../lab/api/churn.ts';
import { RemoteApi } from '../../lab/api/remote.ts';
import type { Host } from '../../lab/host.ts';

export const NAMESPACE = 'bench';
export const SLICES = 10;
export const PER_SLICE = 100;
export const ENDPOINTS = SLICES * PER_SLICE;

export interface Followed extends Disposable {
  readonly agent: Agent;
  readonly api: RemoteApi;
}

/** Starts both; each listener follows the Service `service-N` on port 9000. Returns when all endpoints are in use. */
export async function followed(node: Host, services: number, prepare?: (api: RemoteApi) => Promise<unknown>) {
  const api = await RemoteApi.start(node);
  if (prepare) await prepare(api);
  else for (let service = 0; service < services; service++) await applyAll(api, `service-${service}`);
  const listeners = Array.from({ length: services }, (_, index) => ({
    name: `listener-${index}`,
    bind: `0.0.0.0:${9000 + index}`,
    interface: node.nic,
    mode: 'tc_ebpf',
    kubernetes: { namespace: NAMESPACE, service: `service-${index}`, port: 9000 },
  }));
  const config = { listeners, metrics: { enabled: true, bind: '127.0.0.1:9090' } };
  const agent = startAgent(node, config, { env: { KUBECONFIG: api.kubeconfig } });
  for (const { name } of listeners) {
    const id = name.split('-')[1];
    await agent.waitFor(new RegExp(`updated tc_ebpf downstream set listener_id=${id} endpoints=${ENDPOINTS}$`));
  }
  return { agent, api, [Symbol.dispose]: () => api.close() } satisfies Followed;
}

async function applyAll(api: RemoteApi, service: string): Promise<void> {
  for (let slice = 0; slice < SLICES; slice++) await api.apply(NAMESPACE, numberedSlice(service, slice, PER_SLICE));
}
