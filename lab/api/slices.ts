/** EndpointSlices as their controller writes them, for scripts of the fake API server. */
import type { ApiObject } from './store.ts';

export interface SliceOptions {
  readonly service?: string;
  readonly addressType?: string;
  readonly ports?: readonly unknown[] | null;
}

export interface EndpointOptions {
  readonly ready?: boolean | null;
  readonly serving?: boolean | null;
  readonly terminating?: boolean | null;
}

export const UDP_9000 = { name: 'syslog', protocol: 'UDP', port: 9000 };

/** A slice of a Service; each endpoint is an address, which then is ready, or what `anEndpoint` made. */
export function aSlice(
  name: string,
  endpoints: readonly (string | object)[] | null,
  { service = 'receivers', addressType = 'IPv4', ports = [UDP_9000] }: SliceOptions = {},
): ApiObject {
  return {
    metadata: {
      name,
      generateName: `${service}-`,
      creationTimestamp: '2025-01-01T00:00:00Z',
      labels: {
        'endpointslice.kubernetes.io/managed-by': 'endpointslice-controller.k8s.io',
        'kubernetes.io/service-name': service,
      },
    },
    addressType,
    endpoints: endpoints?.map((one) => (typeof one === 'string' ? anEndpoint(one) : one)) ?? null,
    ports,
  };
}

/** A pod's endpoint; a condition left out is as for a running pod, and null is as if nobody knew. */
export function anEndpoint(ip: string, { ready = true, serving = ready, terminating = false }: EndpointOptions = {}) {
  return {
    addresses: [ip],
    conditions: { ready, serving, terminating },
    nodeName: 'node-a',
    zone: 'zone-1',
    targetRef: { kind: 'Pod', name: `pod-${ip.replaceAll(/[.:]/g, '-')}`, namespace: 'logging' },
  };
}

/** An endpoint on its way out: it still serves, or does not any more. */
export function aTerminating(ip: string, serving = true) {
  return anEndpoint(ip, { ready: false, serving, terminating: true });
}

/** A Node with these addresses of its own. */
export function aNode(name: string, ...ips: readonly string[]): ApiObject {
  const addresses = [...ips.map((address) => ({ type: 'InternalIP', address })), { type: 'Hostname', address: name }];
  return { metadata: { name }, status: { addresses } };
}
