/** The listeners of the packet tables. Each scenario has a listener of its own, so that rows do not disturb each other. */
import type { Family } from '../../agent/address.ts';
import { addressText } from '../../lab/sockaddr.ts';
import { ip, NET } from './node.ts';
import type { Plan } from './rig.ts';

/** As a number its last two bytes are its port: a header too short by one word must not be read as a match. */
export const VIP = { 4: ip(4, NET.vips, 9000), 6: ip(6, NET.vips, 9000) } as const;
export const SECOND_VIP = { 4: ip(4, NET.vips, 101), 6: ip(6, NET.vips, 101) } as const;

/** More slots than this no listener may have of one weight. */
export const MANY = 4096;

/** A downstream in both families. */
const twin = (net: number, host: number, port: number) => [
  addressText(ip(4, net, host), port),
  addressText(ip(6, net, host), port),
];

/** A pod of a node of the same network, in both families. */
const onNode = (host: number, port: number, node: number) =>
  ([4, 6] as const).map(
    (family) => [addressText(ip(family, NET.pods, host), port), 1, ip(family, NET.pods, node)] as const,
  );

/** A wildcard bind of both families with one downstream in such a network. */
const towards = (port: number, net: number, host = 10): Plan => ({ bind: `[::]:${port}`, to: twin(net, host, port) });

export const LISTENERS = {
  // One port: a wildcard, two VIPs and a specific bind of the node's own address.
  wild: { bind: '[::]:9000', to: twin(NET.pods, 10, 9000) },
  vip: { bind: `${VIP[4]}:9000`, to: twin(NET.pods, 11, 9001) },
  vip6: { bind: `[${VIP[6]}]:9000`, to: twin(NET.pods, 11, 9001) },
  second: { bind: `${SECOND_VIP[4]}:9000`, to: twin(NET.pods, 12, 9000) },
  second6: { bind: `[${SECOND_VIP[6]}]:9000`, to: twin(NET.pods, 12, 9000) },
  own: { bind: `${ip(4, NET.clients, 1)}:9002`, to: twin(NET.pods, 11, 9002) },
  own6: { bind: `[${ip(6, NET.clients, 1)}]:9002`, to: twin(NET.pods, 11, 9002) },
  any: { bind: '[::]:9002', to: twin(NET.pods, 12, 9002) },
  // The same port for IPv4 alone and for both families.
  dual: { bind: '[::]:9003', to: twin(NET.pods, 10, 9003) },
  only4: { bind: '0.0.0.0:9003', to: twin(NET.pods, 11, 9003) },
  // The same port on two interfaces, and one that is on both.
  elsewhere: { bind: '[::]:9004', to: twin(NET.pods, 10, 9004), on: ['eth1'] },
  both: { bind: '[::]:9005', to: twin(NET.pods, 10, 9005), on: ['eth0', 'eth1'] },

  none: { bind: '[::]:9010', to: [] },
  three: { bind: '[::]:9011', to: [10, 11, 12].flatMap((host) => twin(NET.pods, host, 9011)) },
  weighted: {
    bind: '[::]:9012',
    to: [10, 11, 12].flatMap((host) => twin(NET.pods, host, 9012).map((to) => [to, host === 10 ? 4 : 2] as const)),
  },
  many: { bind: '[::]:9013', to: Array.from({ length: MANY }, (_, at) => twin(NET.beyond, 10 + at, 9013)).flat() },

  // Pods of two nodes, of which one has most; of one node alone; and of this very host.
  nodes: { bind: '[::]:9014', to: [10, 11, 12, 12].flatMap((host, at) => onNode(host, 9014 + at, at < 3 ? 254 : 20)) },
  onenode: { bind: '[::]:9015', to: [10, 11].flatMap((host) => onNode(host, 9015, 254)) },
  onthis: { bind: '[::]:9016', to: onNode(10, 9016, 1) },

  // Receivers on the host network of this node and of another one, with the listener's own port.
  shared: { bind: '[::]:9017', to: [1, 7].flatMap((host) => twin(NET.clients, host, 9017)) },

  translated: { bind: '[::]:9020', to: twin(NET.pods, 10, 514) },
  fragmented: { bind: '[::]:9021', to: [10, 11, 12].flatMap((host) => twin(NET.pods, host, 514)) },

  silent: towards(9029, NET.pods, 98), // this one has not answered
  stranger: towards(9030, NET.pods, 99), // nobody has asked for this neighbour yet
  gateway: towards(9031, NET.beyond),
  mixed: towards(9032, NET.mixed),
  overlay: towards(9033, NET.overlay),
  narrow: towards(9034, NET.narrow),
  blackhole: towards(9035, NET.blackhole),
  unreachable: towards(9036, NET.unreachable),
  prohibit: towards(9037, NET.prohibit),
  encapsulated: towards(9038, NET.encapsulated),
  nowhere: towards(9039, NET.nowhere),
  local: { bind: '[::]:9040', to: twin(NET.pods, 1, 9140) },
} as const satisfies Record<string, Plan>;

export type ListenerName = keyof typeof LISTENERS;

/** The port that a listener binds. */
export function portOf(name: ListenerName): number {
  return Number(/\d+$/.exec(LISTENERS[name].bind)![0]);
}

/** The listener's name where each family needs one of its own. */
export const vipOf = (family: Family) => (family === 4 ? 'vip' : 'vip6');
export const secondOf = (family: Family) => (family === 4 ? 'second' : 'second6');
export const ownOf = (family: Family) => (family === 4 ? 'own' : 'own6');
