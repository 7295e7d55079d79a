/**
 * IPv6 with Calico and BGP, no encapsulation. The router spreads the VIPs over both nodes.
 *
 *   client 2001:a61:35b3:1::9 -- router --+-- enp2s0 fd77:3be9:5d2e:1::a  node a  caliA -- pod ffcc::10
 *                        fd77:3be9:5d2e:1::1 +-- enp2s0 fd77:3be9:5d2e:1::b  node b  caliB -- pod ffcc::110
 */
import { closing, type Host, hostIn, type Pod, type Topology } from './host.ts';
import { type Blueprint, type HostBlueprint, Lab } from './lab.ts';

export interface CalicoBgpOptions {
  /** How the nodes' routes to each other's pods name the next hop; `global`. */
  readonly nextHop?: 'global' | 'link-local';
}

export interface CalicoBgp extends Topology {
  readonly client: Host;
  readonly router: Host;
  readonly a: Host;
  readonly b: Host;
  /** On node a, then on node b, port 5514. */
  readonly pods: readonly [Pod, Pod];
  /** On no interface. The first is the VIP, the second what it is after the provider's prefix has changed. */
  readonly vips: readonly [string, string];
}

interface NodeFacts {
  readonly name: 'a' | 'b';
  readonly ip: string;
  readonly mac: string;
  readonly linkLocal: string;
  readonly pods: string;
  readonly pod: { readonly ip: string; readonly mac: string; readonly hostInterface: string };
}

const ULA = 'fd77:3be9:5d2e';
const CLIENT = { ip: '2001:a61:35b3:1::9', mac: '02:00:00:00:08:09' };
const ROUTER = { ip: `${ULA}:1::1`, mac: '02:00:00:00:08:01' };
const VIPS = ['2001:a61:35b3:cdfa:ff01::1', '2001:a61:1162:79fb:ff01::1'] as const;
const VIP_PREFIXES = VIPS.map((vip) => `${vip.replace(/1$/, '')}/112`);
const PORT = 5514;
// Every pod's gateway, as Calico has it.
const GATEWAY = { ip: 'fe80::ecee:eeff:feee:eeee', mac: 'ee:ee:ee:ee:ee:ee' };

const A: NodeFacts = {
  name: 'a',
  ip: `${ULA}:1::a`,
  mac: '02:00:00:00:08:0a',
  linkLocal: 'fe80::ff:fe00:80a',
  pods: `${ULA}:ffcc::/120`,
  pod: { ip: `${ULA}:ffcc::10`, mac: '02:00:00:00:08:10', hostInterface: 'caliA' },
};
const B: NodeFacts = {
  name: 'b',
  ip: `${ULA}:1::b`,
  mac: '02:00:00:00:08:0b',
  linkLocal: 'fe80::ff:fe00:80b',
  pods: `${ULA}:ffcc::100/120`,
  pod: { ip: `${ULA}:ffcc::110`, mac: '02:00:00:00:08:11', hostInterface: 'caliB' },
};

/** Builds it. */
export function calicoBgp({ nextHop = 'global' }: CalicoBgpOptions = {}): CalicoBgp {
  const lab = Lab.build(blueprint(nextHop));
  const pod = ({ name, pod: facts }: NodeFacts): Pod => {
    const { ip, hostInterface } = facts;
    return { ...hostIn(lab, `pod-${name}`, 'eth0', facts), port: PORT, address: `[${ip}]:${PORT}`, hostInterface };
  };
  return {
    ...closing(lab),
    client: hostIn(lab, 'client', 'eth0', CLIENT),
    router: hostIn(lab, 'router', 'lan0', ROUTER),
    a: hostIn(lab, 'a', 'enp2s0', A),
    b: hostIn(lab, 'b', 'enp2s0', B),
    pods: [pod(A), pod(B)],
    vips: VIPS,
  };
}

function blueprint(nextHop: 'global' | 'link-local'): Blueprint {
  return {
    hosts: {
      client: { ip: [`addr add ${CLIENT.ip}/64 dev eth0 nodad`, 'route add default via 2001:a61:35b3:1::1'] },
      router: {
        // By address and port, so that one client's streams reach both nodes.
        sysctls: { 'net/ipv6/conf/all/forwarding': 1, 'net/ipv6/fib_multipath_hash_policy': 1 },
        ip: [
          'addr add 2001:a61:35b3:1::1/64 dev wan0 nodad',
          `link add lan0 address ${ROUTER.mac} type bridge`,
          'link set lan0 up',
          'link set node-a master lan0',
          'link set node-b master lan0',
          `addr add ${ROUTER.ip}/64 dev lan0 nodad`,
          ...VIP_PREFIXES.map((prefix) => `route add ${prefix} nexthop via ${A.ip} nexthop via ${B.ip}`),
          ...[A, B].map(({ ip, pods }) => `route add ${pods} via ${ip}`),
        ],
      },
      a: nodeBlueprint(A, B, nextHop),
      b: nodeBlueprint(B, A, nextHop),
      'pod-a': podBlueprint(A),
      'pod-b': podBlueprint(B),
    },
    links: [
      [
        { host: 'client', name: 'eth0', mac: CLIENT.mac, checksums: 'computed' },
        { host: 'router', name: 'wan0' },
      ],
      ...[A, B].flatMap(({ name, mac, pod }) => [
        [
          { host: name, name: 'enp2s0', mac },
          { host: 'router', name: `node-${name}` },
        ] as const,
        [
          { host: `pod-${name}`, name: 'eth0', mac: pod.mac },
          { host: name, name: pod.hostInterface, mac: GATEWAY.mac },
        ] as const,
      ]),
    ],
  };
}

function nodeBlueprint(node: NodeFacts, other: NodeFacts, nextHop: 'global' | 'link-local'): HostBlueprint {
  const via = nextHop === 'global' ? other.ip : other.linkLocal;
  return {
    sysctls: { 'net/ipv6/conf/all/forwarding': 1 },
    ip: [
      `addr add ${node.ip}/64 dev enp2s0 nodad`,
      `route add default via ${ROUTER.ip}`,
      `route add ${other.pods} via ${via} dev enp2s0`,
      `route add ${node.pod.ip}/128 dev ${node.pod.hostInterface}`,
      // As kube-proxy rejects what it has no endpoint for; else it would circle to the router until its hop limit ends.
      ...VIP_PREFIXES.map((prefix) => `route add unreachable ${prefix}`),
    ],
  };
}

function podBlueprint({ pod }: NodeFacts): HostBlueprint {
  return { ip: [`addr add ${pod.ip}/128 dev eth0 nodad`, `route add default via ${GATEWAY.ip} dev eth0`] };
}
