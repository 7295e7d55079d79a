/**
 * The node that the packets come to: a network namespace of the calling thread's own, with links, addresses and a route
 * of every kind that a FIB look-up can answer. Both families are twins: `10.K.0.H` and `fd0K::H`.
 */
import { closeSync, openSync, writeFileSync } from 'node:fs';
import type { Family } from '../../agent/address.ts';
import { check } from '../../agent/ffi/errno.ts';
import { CLONE_NEWNET, libc } from '../../agent/ffi/libc.ts';
import { type Host, openHost } from '../../agent/netlink/host.ts';
import { findLink } from '../../agent/netlink/link.ts';
import { NODE_MAC } from '../../lab/ip.ts';
import { currentCpu } from '../../lab/libc.ts';
import { batch } from '../../lab/namespace.ts';
import { patient } from '../../lab/patience.ts';
import { sleepSync } from '../../lab/processes.ts';

/** The networks, K of their addresses, by what the node's FIB says of them. */
export const NET = {
  clients: 0, // on eth0
  pods: 1, // on cni0, with neighbours that are known
  overlay: 2, // on a link of MTU 1400
  beyond: 3, // via a gateway
  mixed: 4, // via an IPv6 gateway, IPv4 too (RFC 5549)
  blackhole: 5,
  unreachable: 6,
  prohibit: 7,
  encapsulated: 8, // a route with a tunnel of its own, which only the stack can walk
  second: 9, // on eth1
  narrow: 10, // a route with a locked MTU of 1300, the only kind that binds who forwards (ip-route(8))
  vips: 11, // no interface has it
  nowhere: 12, // no route
} as const;

/** The MTU towards a network, where it is not 1500; a tunnel's header, here 64 bytes (RFC 8754), is taken off. */
export const MTU: Readonly<Record<number, number>> = {
  [NET.overlay]: 1400,
  [NET.narrow]: 1300,
  [NET.encapsulated]: 1500 - 64,
};

/** Links by name, each with its network, MAC and MTU; each is a veth whose other end nobody uses. */
const LINKS = {
  eth0: { net: NET.clients, mac: NODE_MAC, mtu: 1500 },
  eth1: { net: NET.second, mac: NODE_MAC, mtu: 1500 },
  cni0: { net: NET.pods, mac: '02:00:00:00:00:02', mtu: 1500 },
  overlay0: { net: NET.overlay, mac: '02:00:00:00:00:03', mtu: 1400 },
} as const;
export type LinkName = keyof typeof LINKS;

/** Host H of network K. */
export function ip(family: Family, net: number, host: number): string {
  return family === 4 ? `10.${net}.${host >> 8}.${host & 255}` : `fd0${net.toString(16)}::${host.toString(16)}`;
}

/** The node's own addresses. */
export const NODE_IPS: readonly string[] = Object.values(LINKS).flatMap(({ net }) => [ip(4, net, 1), ip(6, net, 1)]);

/** Another node of the clients' network, with receivers of its own. */
export const PEER_IPS: readonly string[] = [ip(4, NET.clients, 7), ip(6, NET.clients, 7)];
export const PEER_MAC = '02:00:00:00:00:07';

export interface Node extends Disposable {
  /** What the agent would see. */
  readonly host: Host;
  ifindex(name: LinkName): number;
  /** Switches forwarding for others on or off, both families, on every link. */
  forward(on: boolean): void;
}

/**
 * Moves this thread into the node until it is disposed of; needs root. Also keeps the thread on one CPU, since the
 * program walks its slots CPU by CPU.
 */
export function enterNode(): Node {
  const home = openSync('/proc/thread-self/ns/net', 'r');
  check('unshare', libc.unshare(CLONE_NEWNET));
  stayOnCpu(currentCpu());
  const host = openHost();
  const leave = () => {
    host.close();
    check('setns', libc.setns(home, CLONE_NEWNET));
    closeSync(home);
  };
  try {
    build(host);
  } catch (error) {
    leave();
    throw error;
  }
  return {
    host,
    ifindex: (name) => findLink(host.links(), name)!.index,
    forward,
    [Symbol.dispose]: leave,
  };
}

function stayOnCpu(cpu: number): void {
  const mask = Buffer.alloc(128);
  mask[cpu >> 3] = 1 << (cpu & 7);
  check('sched_setaffinity', libc.sched_setaffinity(0, mask.length, mask));
}

function build(host: Host): void {
  const links = Object.entries(LINKS);
  forward(true);
  batch(
    'ip',
    links.flatMap(([name, { mac, mtu }], index) => [
      `link add ${name} address ${mac} mtu ${mtu} type veth peer name wire${index} mtu ${mtu}`,
      `link set wire${index} addrgenmode none up`,
      `link set ${name} addrgenmode none up`,
    ]),
  );
  batch(
    'ip',
    links.flatMap(([name, { net }]) => [
      `address add ${ip(4, net, 1)}/16 dev ${name}`,
      `address add ${ip(6, net, 1)}/64 dev ${name} nodad`,
    ]),
  );
  // Only a link whose carrier the kernel has noticed gets its IPv6 routes, and it notices in its own time.
  const ready = () => links.every(([, { net }]) => host.route({ family: 6, ip: ip(6, net, 2) }));
  for (const end = performance.now() + patient(2000); !ready(); ) {
    if (performance.now() > end) throw new Error('the links of the packet tests do not come up');
    sleepSync(2);
  }
  batch('ip', ([4, 6] as const).flatMap(routes));
}

function routes(family: Family): string[] {
  const to = (net: number) => (family === 4 ? `${ip(4, net, 0)}/16` : `${ip(6, net, 0)}/64`);
  const gateway = `via ${ip(family, NET.pods, 254)}`;
  const known = [
    [NET.pods, 'cni0'],
    [NET.overlay, 'overlay0'],
  ] as const;
  return [
    ...known.flatMap(([net, link]) =>
      [10, 11, 12, 254].map(
        (end) => `neighbour add ${ip(family, net, end)} lladdr 02:00:00:00:01:${end.toString(16)} dev ${link}`,
      ),
    ),
    `neighbour add ${ip(family, NET.pods, 98)} dev cni0 nud failed`,
    `neighbour add ${PEER_IPS[family === 4 ? 0 : 1]} lladdr ${PEER_MAC} dev eth0`,
    `route add ${to(NET.beyond)} ${gateway}`,
    `route add ${to(NET.mixed)} via inet6 ${ip(6, NET.pods, 254)} dev cni0`,
    `route add blackhole ${to(NET.blackhole)}`,
    `route add unreachable ${to(NET.unreachable)}`,
    `route add prohibit ${to(NET.prohibit)}`,
    `route add ${to(NET.encapsulated)} encap seg6 mode encap segs ${ip(6, NET.beyond, 9)} dev cni0`,
    `route add ${to(NET.narrow)} ${gateway} mtu lock ${MTU[NET.narrow]}`,
  ];
}

function forward(on: boolean): void {
  for (const family of [4, 6]) writeFileSync(`/proc/sys/net/ipv${family}/conf/all/forwarding`, on ? '1' : '0');
}
