/**
 * A k3s cluster as flannel and MetalLB leave it: nodes with a public NIC `ens3.100` that takes the VIPs' frames, an
 * inner NIC `ens3`, pods on the bridge `cni0`, and between the nodes the vxlan `flannel.1`.
 *
 *   client vm-ext 10.123.123.4 --+-- ens3.100 10.123.123.N  node vmN  cni0 10.42.M.1/24 --- pods
 *                                |                    |  ens3 10.65.94.x, on it flannel.1 10.42.M.0
 *                          switch br100 (and br3 for ens3)
 */
import { closing, type Host, hostIn, type Pod, type Topology } from './host.ts';
import { type Blueprint, type HostBlueprint, Lab, type Link } from './lab.ts';

export interface FlannelNode {
  readonly name: string;
  /** Of `ens3.100`; its last byte numbers the node. */
  readonly ip: string;
  /** Of `ens3`. */
  readonly innerIp: string;
  /** The third byte of the node's pod network 10.42.M.0/24. */
  readonly subnet: number;
  /** Last bytes of its pods' addresses. */
  readonly pods: readonly number[];
  /** Whether it forwards; 1. */
  readonly ipForward?: 0 | 1;
}

export interface Flannel extends Topology {
  readonly client: Host;
  /** By name. */
  readonly nodes: Readonly<Record<string, Host>>;
  /** Node by node, in the order given. */
  readonly pods: readonly Pod[];
}

const CLIENT = { ip: '10.123.123.4', mac: '02:00:00:64:00:04' };
const POD_MTU = 1450;

/** Builds the cluster. The client resolves each VIP to the first node, as when MetalLB's speaker there announces it. */
export function flannel(nodes: readonly FlannelNode[], vips: readonly string[], port: number): Flannel {
  const lab = Lab.build(clusterBlueprint(nodes, vips));
  return {
    ...closing(lab),
    client: hostIn(lab, 'vm-ext', 'eth0', CLIENT),
    nodes: Object.fromEntries(
      nodes.map((node) => [node.name, hostIn(lab, node.name, 'ens3.100', { ip: node.ip, mac: publicMac(node) })]),
    ),
    pods: nodes.flatMap((node) => {
      return node.pods.map((last) => {
        const { name, ip, mac, hostInterface } = podFacts(node, last);
        return { ...hostIn(lab, name, 'eth0', { ip, mac }), port, address: `${ip}:${port}`, hostInterface };
      });
    }),
  };
}

function clusterBlueprint(nodes: readonly FlannelNode[], vips: readonly string[]): Blueprint {
  const owner = nodes[0]!;
  const announced = vips.map((vip) => `neigh add ${vip} lladdr ${publicMac(owner)} dev eth0 nud permanent`);
  return {
    hosts: {
      'vm-ext': { ip: [`addr add ${CLIENT.ip}/24 dev eth0`, ...announced] },
      ...Object.fromEntries(nodes.map((node) => [node.name, nodeBlueprint(node, nodes)])),
      ...Object.fromEntries(nodes.flatMap((node) => node.pods.map((last) => podBlueprint(node, last)))),
      switch: { ip: switchLines(nodes) },
    },
    links: [
      [
        { host: 'vm-ext', name: 'eth0', mac: CLIENT.mac, checksums: 'computed' },
        { host: 'switch', name: 'vm-ext' },
      ],
      ...nodes.flatMap((node) => nodeLinks(node)),
    ],
  };
}

function nodeLinks(node: FlannelNode): Link[] {
  const pods = node.pods.map((last): Link => {
    const { name, mac, hostInterface } = podFacts(node, last);
    return [
      { host: name, name: 'eth0', mac, mtu: POD_MTU },
      { host: node.name, name: hostInterface, mtu: POD_MTU },
    ];
  });
  return [
    [
      { host: node.name, name: 'ens3.100', mac: publicMac(node) },
      { host: 'switch', name: `${node.name}.100` },
    ],
    [
      { host: node.name, name: 'ens3', mac: `02:00:00:03:00:${hex(node.subnet)}` },
      { host: 'switch', name: `${node.name}.3` },
    ],
    ...pods,
  ];
}

function nodeBlueprint(node: FlannelNode, nodes: readonly FlannelNode[]): HostBlueprint {
  const others = nodes.filter((other) => other !== node);
  const overlay = `type vxlan id 1 dev ens3 local ${node.innerIp} dstport 8472 nolearning`;
  return {
    sysctls: { 'net/ipv4/ip_forward': node.ipForward ?? 1 },
    ip: [
      `addr add ${node.ip}/24 dev ens3.100`,
      `addr add ${node.innerIp}/24 dev ens3`,
      `link add flannel.1 address ${overlayMac(node)} mtu ${POD_MTU} ${overlay}`,
      `addr add 10.42.${node.subnet}.0/32 dev flannel.1`,
      'link set flannel.1 up',
      `link add cni0 mtu ${POD_MTU} type bridge`,
      `addr add 10.42.${node.subnet}.1/24 dev cni0`,
      'link set cni0 up',
      ...node.pods.map((last) => `link set ${podFacts(node, last).hostInterface} master cni0`),
      ...others.flatMap((other) => [
        `neigh add 10.42.${other.subnet}.0 lladdr ${overlayMac(other)} dev flannel.1 nud permanent`,
        `route add 10.42.${other.subnet}.0/24 via 10.42.${other.subnet}.0 dev flannel.1 onlink`,
      ]),
    ],
    bridge: others.map((other) => `fdb add ${overlayMac(other)} dev flannel.1 dst ${other.innerIp} self permanent`),
  };
}

function podBlueprint(node: FlannelNode, last: number): [string, HostBlueprint] {
  const { name, ip } = podFacts(node, last);
  return [name, { ip: [`addr add ${ip}/24 dev eth0`, `route add default via 10.42.${node.subnet}.1`] }];
}

/** Two switches in one namespace, one for each of the nodes' networks. */
function switchLines(nodes: readonly FlannelNode[]): string[] {
  return [
    ...['br100', 'br3'].flatMap((name) => [`link add ${name} type bridge`, `link set ${name} up`]),
    'link set vm-ext master br100',
    ...nodes.flatMap(({ name }) => [`link set ${name}.100 master br100`, `link set ${name}.3 master br3`]),
  ];
}

function podFacts(node: FlannelNode, last: number) {
  return {
    name: `pod-${node.subnet}-${last}`,
    ip: `10.42.${node.subnet}.${last}`,
    mac: `02:00:0a:2a:${hex(node.subnet)}:${hex(last)}`,
    hostInterface: `veth${last}`,
  };
}

function publicMac({ ip }: FlannelNode): string {
  return `02:00:00:64:01:${hex(Number(ip.split('.')[3]))}`;
}

function overlayMac({ subnet }: FlannelNode): string {
  return `02:00:00:f1:00:${hex(subnet)}`;
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0');
}
