/**
 * The guide's base: a client, a node, and receivers' pods on that node.
 *
 *   client 10.0.0.9 eth0 ---- eth0 10.0.0.1 node veth10.. ---- eth0 10.0.1.10.. pods, port 9000
 *
 * Routed: a /32 route for each pod, its gateway 169.254.1.1 (Calico's way). Bridged: cni0 10.0.1.1/24 (flannel's way).
 */
import { closing, type Host, hostIn, type Pod, type Topology } from './host.ts';
import { CLIENT_MAC, NODE_MAC } from './ip.ts';
import { type Blueprint, Lab, type LinkEnd } from './lab.ts';

export interface SingleNodeOptions {
  /** 1 to 240; 3. */
  readonly pods?: number;
  readonly wiring?: 'routed' | 'bridged';
  /** `offloaded`: the client's datagrams arrive with CHECKSUM_PARTIAL, as from another container of the machine. */
  readonly checksums?: LinkEnd['checksums'];
  /** `computed`: the links to the pods make checksums that were left to hardware, so that the pods' stacks verify them. */
  readonly toPods?: LinkEnd['checksums'];
  /** Whether the node forwards for others; 1. */
  readonly ipForward?: 0 | 1;
}

export interface SingleNode extends Topology {
  readonly client: Host;
  readonly node: Host;
  readonly pods: readonly Pod[];
  /** Starts one more pod, with the next address. */
  addPod(): Pod;
  /** Takes a pod away, its link with it. */
  removePod(pod: Pod): void;
}

const PORT = 9000;

/** Builds it. */
export function singleNode({
  pods: count = 3,
  wiring = 'routed',
  checksums = 'computed',
  toPods = 'offloaded',
  ipForward = 1,
}: SingleNodeOptions = {}): SingleNode {
  const lab = Lab.build(base(wiring, checksums, ipForward));
  const pods: Pod[] = [];
  let next = 0;
  const addPods = (howMany: number): void => {
    const indexes = Array.from({ length: howMany }, () => next++);
    lab.extend(
      merged(indexes.map((index) => (wiring === 'routed' ? routedPod(index, toPods) : bridgedPod(index, toPods)))),
    );
    for (const index of indexes) {
      const { name, ip, mac, hostInterface } = podFacts(index);
      pods.push({ ...hostIn(lab, name, 'eth0', { ip, mac }), port: PORT, address: `${ip}:${PORT}`, hostInterface });
    }
  };
  addPods(count);
  return {
    ...closing(lab),
    client: hostIn(lab, 'client', 'eth0', { ip: '10.0.0.9', mac: CLIENT_MAC }),
    node: hostIn(lab, 'node', 'eth0', { ip: '10.0.0.1', mac: NODE_MAC }),
    pods,
    addPod: () => {
      addPods(1);
      return pods.at(-1)!;
    },
    removePod: (pod) => {
      lab.remove(pod.name);
      pods.splice(pods.indexOf(pod), 1);
    },
  };
}

function base(wiring: 'routed' | 'bridged', checksums: LinkEnd['checksums'], ipForward: 0 | 1): Blueprint {
  const bridge = ['link add cni0 type bridge', 'link set cni0 up', 'addr add 10.0.1.1/24 dev cni0'];
  return {
    hosts: {
      client: { ip: ['addr add 10.0.0.9/24 dev eth0', 'route add default via 10.0.0.1'] },
      node: {
        sysctls: { 'net/ipv4/ip_forward': ipForward },
        ip: ['addr add 10.0.0.1/24 dev eth0', ...(wiring === 'bridged' ? bridge : [])],
      },
    },
    links: [
      [
        { host: 'client', name: 'eth0', mac: CLIENT_MAC, ...(checksums && { checksums }) },
        { host: 'node', name: 'eth0', mac: NODE_MAC },
      ],
    ],
  };
}

function podFacts(index: number) {
  const last = 10 + index;
  const byte = last.toString(16).padStart(2, '0');
  return {
    name: `pod${index}`,
    ip: `10.0.1.${last}`,
    mac: `02:00:00:00:01:${byte}`,
    hostInterface: `veth${last}`,
    hostMac: `02:00:00:00:02:${byte}`,
  };
}

function routedPod(index: number, checksums: LinkEnd['checksums']): Blueprint {
  const { ip, hostInterface, hostMac } = podFacts(index);
  return podOn(
    index,
    checksums,
    [`route add ${ip}/32 dev ${hostInterface}`],
    [
      `addr add ${ip}/32 dev eth0`,
      'route add 169.254.1.1 dev eth0 scope link',
      'route add default via 169.254.1.1 dev eth0',
      `neigh add 169.254.1.1 lladdr ${hostMac} dev eth0 nud permanent`,
    ],
  );
}

function bridgedPod(index: number, checksums: LinkEnd['checksums']): Blueprint {
  const { ip, hostInterface } = podFacts(index);
  return podOn(
    index,
    checksums,
    [`link set ${hostInterface} master cni0`],
    [`addr add ${ip}/24 dev eth0`, 'route add default via 10.0.1.1'],
  );
}

function podOn(
  index: number,
  checksums: LinkEnd['checksums'],
  onNode: readonly string[],
  inPod: readonly string[],
): Blueprint {
  const { name, mac, hostInterface, hostMac } = podFacts(index);
  return {
    hosts: { [name]: { ip: inPod }, node: { ip: onNode } },
    links: [
      [
        { host: name, name: 'eth0', mac },
        { host: 'node', name: hostInterface, mac: hostMac, ...(checksums && { checksums }) },
      ],
    ],
  };
}

function merged(blueprints: readonly Blueprint[]): Blueprint {
  const node = { ip: blueprints.flatMap(({ hosts }) => hosts.node?.ip ?? []) };
  return {
    hosts: { ...Object.assign({}, ...blueprints.map(({ hosts }) => hosts)), node },
    links: blueprints.flatMap(({ links }) => links ?? []),
  };
}
