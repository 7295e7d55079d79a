/** Which host a downstream lives on: what Kubernetes says of the endpoint's node, else the router on the way to it. */
import type { LoadingSource } from './discovery/source.ts';
import type { Endpoint } from './model.ts';
import type { Reachability } from './reachability/reachability.ts';

export interface Nodes {
  /** Another text where `of` may answer differently. */
  readonly version: string;
  /** The host's address of the endpoint's family; undefined where nobody knows, or it is the endpoint itself. */
  of(endpoint: Pick<Endpoint, 'address' | 'nodeName'>): string | undefined;
}

export function openNodes(
  source: Pick<LoadingSource, 'nodeAddress' | 'nodesVersion'>,
  reachability: Pick<Reachability, 'gateway' | 'gatewaysVersion'> | undefined,
): Nodes {
  return {
    get version() {
      return `${source.nodesVersion} ${reachability?.gatewaysVersion}`;
    },
    of: ({ address, nodeName = '' }) => source.nodeAddress(nodeName, address.family) ?? reachability?.gateway(address),
  };
}
