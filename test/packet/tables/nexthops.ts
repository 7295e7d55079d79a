/**
 * What the FIB says of the way to the downstream, and what becomes of the datagram. Not to be had here: a FIB answer
 * that the program does not know, a kernel without memory, a redirect that is refused.
 */
import type { Udp } from '../../../lab/frame.ts';
import type { Ip } from '../../../lab/ip.ts';
import { type ListenerName, portOf } from '../listeners.ts';
import { MTU, NET } from '../node.ts';
import { dropped, forwarded, forwardedLocal, handed, type Row, type Side, toListener, twins } from '../rows.ts';

/** Bytes of UDP payload in an IP packet of this size. */
const payloadOf = (side: Side, packet: number) => Buffer.alloc(packet - (side.family === 4 ? 28 : 48), 0x33);

const overlay = (side: Side) => ({ ip: side.ip(NET.overlay, 10), port: portOf('overlay') });

const unresolvedOn = (side: Side) => (name: ListenerName, port: number, host: number) =>
  handed(name, 'neigh_unresolved', toListener(side, name), { ip: side.ip(NET.pods, host), port });

/** Rows for a kernel that tells such neighbours. */
export const FAILED_NEIGHBOURS: readonly Row[] = twins((side) => [
  { name: 'one that has not answered', steps: [unresolvedOn(side)('silent', 9029, 98)] },
]);

export const NEXT_HOPS: readonly Row[] = twins((side) => {
  const unresolved = unresolvedOn(side);
  const sent = (name: ListenerName, net: number, port: number, host = 10, fields: Partial<Ip & Udp> = {}) =>
    forwarded(name, toListener(side, name, fields), { ip: side.ip(net, host), port });
  const left = (name: ListenerName, verdict: string, net: number, port: number, fields: Partial<Ip & Udp> = {}) =>
    handed(name, verdict, toListener(side, name, fields), { ip: side.ip(net, 10), port });
  const lost = (name: ListenerName, verdict: string) => dropped(name, verdict, toListener(side, name));
  const limits = [
    ['overlay', NET.overlay, 9033, 'the link'],
    ['narrow', NET.narrow, 9034, 'the route'],
  ] as const;
  const local = { ip: side.ip(NET.pods, 1), port: 9140 };
  const several = toListener(side, 'overlay', { payload: Buffer.alloc(2600, 1) });
  return [
    {
      name: 'a neighbour that nobody has asked for yet',
      steps: [unresolved('stranger', 9030, 99)],
    },
    { name: 'via a gateway', steps: [sent('gateway', NET.beyond, 9031)] },
    { name: 'via an IPv6 gateway', steps: [sent('mixed', NET.mixed, 9032)] },
    { name: 'no route', steps: [left('nowhere', 'no_route', NET.nowhere, 9039)] },
    { name: 'a route that encapsulates', steps: [left('encapsulated', 'fib_lwt', NET.encapsulated, 9038)] },
    { name: 'a blackhole route', steps: [lost('blackhole', 'fib_blackhole')] },
    { name: 'an unreachable route', steps: [lost('unreachable', 'fib_unreachable')] },
    { name: 'a prohibit route', steps: [lost('prohibit', 'fib_prohibit')] },
    ...limits.map(([name, net, port, whose]) => ({
      name: `the MTU of ${whose}: as large as it allows, and one byte more, which the safety net cuts or reports`,
      steps: [
        sent(name, net, port, 10, { payload: payloadOf(side, MTU[net]!) }),
        left(name, 'mtu_exceeded', net, port, { payload: payloadOf(side, MTU[net]! + 1) }),
      ],
    })),
    {
      name: 'the MTU of the link limits each datagram of a packet of several',
      steps: [
        forwarded('overlay', several, overlay(side), { gsoSize: payloadOf(side, 1400).length, gsoSegments: 2 }),
        handed('overlay', 'mtu_exceeded', several, overlay(side), {
          gsoSize: payloadOf(side, 1401).length,
          gsoSegments: 2,
        }),
      ],
    },
    {
      name: 'a sender that is a downstream too: the next one gets it',
      steps: [
        forwarded('three', toListener(side, 'three', { src: side.ip(NET.pods, 10) }), {
          ip: side.ip(NET.pods, 11),
          port: 9011,
        }),
        forwarded('three', toListener(side, 'three', { src: side.ip(NET.pods, 10) }), {
          ip: side.ip(NET.pods, 12),
          port: 9011,
        }),
      ],
    },
    {
      name: 'a sender that is the only downstream: the safety net finds a way',
      steps: [
        handed('wild', 'hairpin', toListener(side, 'wild', { src: side.ip(NET.pods, 10) }), {
          ip: side.ip(NET.pods, 10),
          port: 9000,
        }),
      ],
    },
    {
      name: 'a sender that is the node of most: the one elsewhere gets all of its own, whoever’s turn it was',
      steps: [1, 2, 3].map(() =>
        forwarded('nodes', toListener(side, 'nodes', { src: side.ip(NET.pods, 254) }), {
          ip: side.ip(NET.pods, 12),
          port: 9017,
        }),
      ),
    },
    {
      name: 'a sender that is the node of all: the safety net finds a way',
      steps: [
        handed('onenode', 'hairpin', toListener(side, 'onenode', { src: side.ip(NET.pods, 254) }), {
          ip: side.ip(NET.pods, 11),
          port: 9015,
        }),
      ],
    },
    {
      name: 'a sender that is this host: its pods are reached past its stack',
      steps: [
        forwarded('onthis', toListener(side, 'onthis', { src: side.ip(NET.pods, 1) }), {
          ip: side.ip(NET.pods, 10),
          port: 9016,
        }),
      ],
    },
    {
      name: 'an address of this host: up the stack, readdressed, with any TTL',
      steps: [64, 1].map((ttl) => forwardedLocal('local', toListener(side, 'local', { ttl }), local)),
    },
    {
      name: 'an address of this host, from one of its own: its stack would not take it from outside',
      steps: [handed('local', 'hairpin', toListener(side, 'local', { src: side.node }), local)],
    },
    {
      name: 'TTL before route: what ran out is not told as unroutable',
      steps: [left('nowhere', 'ttl_exceeded', NET.nowhere, 9039, { ttl: 1 })],
    },
  ];
});

/** Rows for a node that does not forward for others: the FIB then answers nothing else. */
export const FORWARDING_OFF: readonly Row[] = twins((side) => [
  {
    name: 'the agent knows the way out',
    steps: [
      forwarded('wild', toListener(side, 'wild'), { ip: side.ip(NET.pods, 10), port: 9000 }),
      forwarded('gateway', toListener(side, 'gateway'), { ip: side.ip(NET.beyond, 10), port: 9031 }),
    ],
  },
  {
    name: 'the way out has an MTU all the same: beyond it the link would drop the datagram without a word',
    steps: [
      forwarded('overlay', toListener(side, 'overlay', { payload: payloadOf(side, 1400) }), overlay(side)),
      handed('overlay', 'mtu_exceeded', toListener(side, 'overlay', { payload: payloadOf(side, 1401) }), overlay(side)),
    ],
  },
  {
    name: 'there is no way out',
    steps: [
      handed('nowhere', 'forwarding_off', toListener(side, 'nowhere'), { ip: side.ip(NET.nowhere, 10), port: 9039 }),
      handed('blackhole', 'forwarding_off', toListener(side, 'blackhole'), {
        ip: side.ip(NET.blackhole, 10),
        port: 9035,
      }),
    ],
  },
  {
    name: 'an address of this host needs none',
    steps: [forwardedLocal('local', toListener(side, 'local'), { ip: side.ip(NET.pods, 1), port: 9140 })],
  },
  {
    name: 'the TTL still runs out',
    steps: [
      handed('wild', 'ttl_exceeded', toListener(side, 'wild', { ttl: 1 }), { ip: side.ip(NET.pods, 10), port: 9000 }),
    ],
  },
]);
