/**
 * The guide's base in both families at once, on the plain link and on a VLAN over it:
 *
 *   client 10.0.0.9, fd00::9  eth0 ---- eth0  10.0.0.1, fd00::1 node veth10.. ---- eth0 10.0.1.10.., fd01::10.. pods
 *          10.100.0.9     eth0.100 ---- eth0.100 10.100.0.1
 */
import { closing, type Host, hostIn, type Pod, type Topology } from './host.ts';
import { CLIENT_MAC, NODE_MAC } from './ip.ts';
import { type HostBlueprint, Lab, type Link } from './lab.ts';

export interface DualStack extends Topology {
  readonly client: Host;
  readonly node: Host;
  readonly pods: readonly Pod[];
  /** The same pods by their IPv6 addresses. */
  readonly pods6: readonly Pod[];
  /** Whether checksums of what the client sends are left to the hardware, or computed. */
  offload(on: boolean): void;
  /** Makes the link of the client or of a pod again, with all that has gone with it: for when it was deleted. */
  relink(host: string): void;
}

const PORT = 9000;
const COUNT = 3;

/** Builds it; `vlan` where the kernel has VLAN interfaces. */
export function dualStack({ vlan }: { readonly vlan: boolean }): DualStack {
  const facts = Array.from({ length: COUNT }, (_, index) => podFacts(index));
  const ends: Link = [
    { host: 'client', name: 'eth0', mac: CLIENT_MAC },
    { host: 'node', name: 'eth0', mac: NODE_MAC },
  ];
  const onVlan = (address: string) => [
    'link add link eth0 name eth0.100 type vlan id 100',
    'link set eth0.100 up',
    `addr add ${address}/24 dev eth0.100`,
  ];
  const client = [
    ...['addr add 10.0.0.9/24 dev eth0', 'addr add fd00::9/64 dev eth0'],
    ...['route add default via 10.0.0.1', 'route add default via fd00::1'],
    ...(vlan ? onVlan('10.100.0.9') : []),
  ];
  const uplink = [
    ...['addr add 10.0.0.1/24 dev eth0', 'addr add fd00::1/64 dev eth0'],
    ...(vlan ? onVlan('10.100.0.1') : []),
  ];
  const lab = Lab.build({
    hosts: {
      client: { ip: client },
      node: {
        sysctls: { 'net/ipv4/ip_forward': 1, 'net/ipv6/conf/all/forwarding': 1 },
        ip: [...uplink, ...facts.flatMap(podRoutes)],
      },
      ...Object.fromEntries(facts.map((pod) => [pod.name, podBlueprint(pod)])),
    },
    links: [ends, ...facts.map(podLink)],
  });
  const pod = (address: string, ip: string, { name, mac, hostInterface }: PodFacts): Pod => ({
    ...hostIn(lab, name, 'eth0', { ip, mac }),
    port: PORT,
    address,
    hostInterface,
  });
  return {
    ...closing(lab),
    client: hostIn(lab, 'client', 'eth0', { ip: '10.0.0.9', mac: CLIENT_MAC }),
    node: hostIn(lab, 'node', 'eth0', { ip: '10.0.0.1', mac: NODE_MAC }),
    pods: facts.map((facts) => pod(`${facts.ip}:${PORT}`, facts.ip, facts)),
    pods6: facts.map((facts) => pod(`[${facts.ip6}]:${PORT}`, facts.ip6, facts)),
    relink: (host) => {
      const facts = host === 'client' ? undefined : podFacts(Number(host.replace('pod', '')));
      const onNode = { ip: facts ? podRoutes(facts) : uplink };
      const onHost = facts ? podBlueprint(facts) : { ip: client };
      lab.extend({ hosts: { [host]: onHost, node: onNode }, links: [facts ? podLink(facts) : ends] });
    },
    offload: (on) => lab.namespace('client').run('ethtool', ['-K', 'eth0', 'tx', on ? 'on' : 'off']),
  };
}

type PodFacts = ReturnType<typeof podFacts>;

function podFacts(index: number) {
  const last = 10 + index;
  return {
    name: `pod${index}`,
    ip: `10.0.1.${last}`,
    ip6: `fd01::${last}`,
    mac: `02:00:00:00:01:${last}`,
    hostMac: `02:00:00:00:02:${last}`,
    hostInterface: `veth${last}`,
  };
}

function podRoutes({ ip, ip6, hostInterface }: PodFacts): string[] {
  return [`route add ${ip}/32 dev ${hostInterface}`, `route add ${ip6}/128 dev ${hostInterface}`];
}

function podBlueprint({ ip, ip6, hostMac }: PodFacts): HostBlueprint {
  return {
    ip: [
      ...[`addr add ${ip}/32 dev eth0`, `addr add ${ip6}/128 dev eth0`],
      ...['route add 169.254.1.1 dev eth0 scope link', 'route add default via 169.254.1.1 dev eth0'],
      ...['route add fe80::1 dev eth0', 'route add default via fe80::1 dev eth0'],
      ...[`neigh add 169.254.1.1 lladdr ${hostMac} dev eth0 nud permanent`],
      ...[`neigh add fe80::1 lladdr ${hostMac} dev eth0 nud permanent`],
    ],
  };
}

function podLink({ name, mac, hostMac, hostInterface }: PodFacts): Link {
  return [
    { host: name, name: 'eth0', mac },
    { host: 'node', name: hostInterface, mac: hostMac },
  ];
}
