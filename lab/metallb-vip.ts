/** A MetalLB VIP on a flannel cluster, with port translation 80 -> 8080. The node vm2 takes the VIP's frames. */
import { type Flannel, flannel } from './flannel.ts';
import type { Host, Pod } from './host.ts';

export interface MetallbVipOptions {
  /** Whether the node that takes the VIP forwards for others; 1. */
  readonly ipForward?: 0 | 1;
}

export interface MetallbVip extends Flannel {
  /** On no interface; its frames reach `vm2` on `ens3.100`. */
  readonly vip: { readonly ip: string; readonly port: number; readonly address: string };
  /** The node that takes the VIP. */
  readonly vm2: Host;
  /** The other node, behind the vxlan. */
  readonly vm1: Host;
  /** Two on vm2, then one on vm1, port 8080. */
  readonly pods: readonly [Pod, Pod, Pod];
}

/** Builds it. */
export function metallbVip({ ipForward = 1 }: MetallbVipOptions = {}): MetallbVip {
  const cluster = flannel(
    [
      { name: 'vm2', ip: '10.123.123.2', innerIp: '10.65.94.199', subnet: 1, pods: [20, 21], ipForward },
      { name: 'vm1', ip: '10.123.123.1', innerIp: '10.65.94.238', subnet: 0, pods: [25] },
    ],
    ['10.123.123.100'],
    8080,
  );
  const [first, second, remote] = cluster.pods;
  return {
    ...cluster,
    vip: { ip: '10.123.123.100', port: 80, address: '10.123.123.100:80' },
    vm2: cluster.nodes.vm2!,
    vm1: cluster.nodes.vm1!,
    pods: [first!, second!, remote!],
  };
}
