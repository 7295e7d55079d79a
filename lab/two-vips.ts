/** Two VIPs with one port on a flannel cluster of three nodes; vm2 takes the frames of both. */
import { type Flannel, flannel } from './flannel.ts';
import type { Host, Pod } from './host.ts';

/** A VIP and the pods behind it. */
export interface Vip {
  readonly ip: string;
  readonly port: number;
  readonly address: string;
  readonly pods: readonly Pod[];
}

export interface TwoVips extends Flannel {
  readonly vm2: Host;
  /** 10.123.123.201:80, to 10.42.0.37:8080 and 10.42.1.35:8080. */
  readonly first: Vip;
  /** 10.123.123.202:80, to 10.42.2.36:8080. */
  readonly second: Vip;
  /** A VIP that is nobody's, whose frames reach vm2 all the same. */
  readonly unrelated: string;
}

const UNRELATED = '10.123.123.203';

/** Builds it. */
export function twoVips(): TwoVips {
  const cluster = flannel(
    [
      { name: 'vm2', ip: '10.123.123.2', innerIp: '10.65.94.199', subnet: 1, pods: [35] },
      { name: 'vm1', ip: '10.123.123.1', innerIp: '10.65.94.238', subnet: 0, pods: [37] },
      { name: 'vm3', ip: '10.123.123.3', innerIp: '10.65.94.95', subnet: 2, pods: [36] },
    ],
    ['10.123.123.201', '10.123.123.202', UNRELATED],
    8080,
  );
  const vip = (ip: string, ...behind: string[]): Vip => {
    return { ip, port: 80, address: `${ip}:80`, pods: cluster.pods.filter((pod) => behind.includes(pod.ip)) };
  };
  return {
    ...cluster,
    vm2: cluster.nodes.vm2!,
    first: vip('10.123.123.201', '10.42.0.37', '10.42.1.35'),
    second: vip('10.123.123.202', '10.42.2.36'),
    unrelated: UNRELATED,
  };
}
