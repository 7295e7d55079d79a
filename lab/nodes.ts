/**
 * Nodes of a cluster on one link, pods behind them that the nodes route to each other, and a client, in both families:
 *
 *   client 10.0.0.9, fd00::9 --+-- eth0 10.0.0.10, fd00::10  node0  veth10.. --- eth0 10.1.0.10.., fd01:0::10..
 *                              +-- eth0 10.0.0.11, fd00::11  node1  veth10.. --- eth0 10.1.1.10.., fd01:1::10..
 */
import { closing, type Host, hostIn, type Pod, type Topology } from './host.ts';
import { type Blueprint, type HostBlueprint, Lab, type Link } from './lab.ts';

export interface Nodes extends Topology {
  readonly client: Host;
  readonly nodes: readonly Host[];
  /** By node. */
  readonly pods: readonly (readonly Pod[])[];
}

export interface NodesOptions {
  /** How many pods each has. */
  readonly pods: readonly number[];
  /** 4. */
  readonly family?: 4 | 6;
  /** 9000. */
  readonly port?: number;
}

/** Builds them; hosts are described by their addresses of one family, and have the other one as well. */
export function nodes({ pods, family = 4, port = 9000 }: NodesOptions): Nodes {
  const lab = Lab.build(blueprint(pods));
  const ipOf = (ips: Ips) => (family === 4 ? ips.four : ips.six);
  const podOf = (facts: PodFacts): Pod => {
    const ip = ipOf(facts);
    const address = family === 4 ? `${ip}:${port}` : `[${ip}]:${port}`;
    return {
      ...hostIn(lab, facts.name, 'eth0', { ip, mac: facts.mac }),
      port,
      address,
      hostInterface: facts.hostInterface,
    };
  };
  return {
    ...closing(lab),
    client: hostIn(lab, 'client', 'eth0', { ip: ipOf(CLIENT), mac: CLIENT.mac }),
    nodes: pods.map((_, node) => hostIn(lab, `node${node}`, 'eth0', { ip: ipOf(nodeIps(node)), mac: nodeMac(node) })),
    pods: pods.map((count, node) => podsOf(node, count).map(podOf)),
  };
}

interface Ips {
  readonly four: string;
  readonly six: string;
}

interface PodFacts extends Ips {
  readonly name: string;
  readonly mac: string;
  readonly hostMac: string;
  readonly hostInterface: string;
}

const CLIENT = { four: '10.0.0.9', six: 'fd00::9', mac: '02:00:00:00:00:09' };

function nodeIps(node: number): Ips {
  return { four: `10.0.0.${10 + node}`, six: `fd00::${10 + node}` };
}

function nodeMac(node: number): string {
  return `02:00:00:00:00:${10 + node}`;
}

function podsOf(node: number, count: number): PodFacts[] {
  return Array.from({ length: count }, (_, index) => {
    const last = 10 + index;
    return {
      name: `pod${node}-${last}`,
      four: `10.1.${node}.${last}`,
      six: `fd01:${node}::${last}`,
      mac: `02:00:00:01:0${node}:${last}`,
      hostMac: `02:00:00:02:0${node}:${last}`,
      hostInterface: `veth${last}`,
    };
  });
}

function blueprint(pods: readonly number[]): Blueprint {
  const ports = ['client', ...pods.map((_, node) => `node${node}`)];
  const pod = (node: number, { name, mac, hostMac, hostInterface }: PodFacts): Link => [
    { host: name, name: 'eth0', mac },
    { host: `node${node}`, name: hostInterface, mac: hostMac },
  ];
  return {
    hosts: {
      switch: {
        ip: ['link add br0 type bridge', 'link set br0 up', ...ports.map((name) => `link set ${name} master br0`)],
      },
      client: { ip: addresses(CLIENT, 24, 64) },
      ...Object.fromEntries(pods.map((_, node) => [`node${node}`, nodeBlueprint(node, pods)])),
      ...Object.fromEntries(pods.flatMap((count, node) => podsOf(node, count).map(podBlueprint))),
    },
    links: [
      wire('client', CLIENT.mac),
      ...pods.map((_, node) => wire(`node${node}`, nodeMac(node))),
      ...pods.flatMap((count, node) => podsOf(node, count).map((facts) => pod(node, facts))),
    ],
  };
}

function wire(host: string, mac: string): Link {
  return [
    { host, name: 'eth0', mac },
    { host: 'switch', name: host },
  ];
}

function nodeBlueprint(node: number, pods: readonly number[]): HostBlueprint {
  const others = [...pods.keys()].filter((other) => other !== node);
  return {
    sysctls: { 'net/ipv4/ip_forward': 1, 'net/ipv6/conf/all/forwarding': 1 },
    ip: [
      ...addresses(nodeIps(node), 24, 64),
      ...podsOf(node, pods[node]!).flatMap(({ four, six, hostInterface }) => [
        `route add ${four}/32 dev ${hostInterface}`,
        `route add ${six}/128 dev ${hostInterface}`,
      ]),
      ...others.flatMap((other) => [
        `route add 10.1.${other}.0/24 via ${nodeIps(other).four}`,
        `route add fd01:${other}::/64 via ${nodeIps(other).six}`,
      ]),
    ],
  };
}

/** As Calico has it: the same gateway in each pod, which the node's end of its link answers for. */
function podBlueprint({ name, four, six, hostMac }: PodFacts): [string, HostBlueprint] {
  const ip = [
    ...addresses({ four, six }, 32, 128),
    ...['route add 169.254.1.1 dev eth0 scope link', 'route add default via 169.254.1.1 dev eth0'],
    ...['route add fe80::1 dev eth0', 'route add default via fe80::1 dev eth0'],
    ...[`neigh add 169.254.1.1 lladdr ${hostMac} dev eth0 nud permanent`],
    ...[`neigh add fe80::1 lladdr ${hostMac} dev eth0 nud permanent`],
  ];
  return [name, { ip }];
}

function addresses({ four, six }: Ips, bits4: number, bits6: number): string[] {
  return [`addr add ${four}/${bits4} dev eth0`, `addr add ${six}/${bits6} dev eth0 nodad`];
}
