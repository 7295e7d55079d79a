/** The EndpointSlice of a Service on the real server, written as its controller would, which is no part of this. */
import type { Json } from '../conversation/format.ts';
import type { ControlPlane } from './control-plane.ts';

export const PORT = 9000;

export class Service {
  readonly namespace: string;
  readonly name: string;
  readonly #plane: ControlPlane;

  constructor(plane: ControlPlane, namespace: string, name: string) {
    this.#plane = plane;
    this.namespace = namespace;
    this.name = name;
  }

  /** Makes the slice, or replaces it: these receivers, all ready. */
  async has(ips: readonly string[]): Promise<void> {
    const path = `/apis/discovery.k8s.io/v1beta1/namespaces/${this.namespace}/endpointslices`;
    const slice = {
      apiVersion: 'discovery.k8s.io/v1beta1',
      kind: 'EndpointSlice',
      metadata: { name: `${this.name}-1`, labels: { 'kubernetes.io/service-name': this.name } },
      addressType: 'IPv4',
      ports: [{ name: 'syslog', protocol: 'UDP', port: PORT }],
      endpoints: ips.map((ip) => ({ addresses: [ip], conditions: { ready: true } })),
    } satisfies Json;
    const made = await this.#plane.client.ask('POST', path, slice);
    if (made.status === 409) await this.#plane.ask('PUT', `${path}/${this.name}-1`, slice);
    else if (made.status !== 201) throw new Error(`POST ${path}: ${made.status} ${JSON.stringify(made.body)}`);
  }
}
