/** Fragments: all parts of a datagram go one way, the kernel's or the safety net's. */
import { type Udp, udp4, udp6 } from '../../../lab/frame.ts';
import type { Ip } from '../../../lab/ip.ts';
import { ACTION } from '../../../lab/test-run.ts';
import { type ListenerName, VIP, vipOf } from '../listeners.ts';
import { NET } from '../node.ts';
import {
  type Datagram,
  datagram,
  dropped,
  early,
  followed,
  forwarded,
  handed,
  handedAfter,
  IPV4,
  IPV6,
  type Row,
  type Side,
  toListener,
  twins,
  untouched,
} from '../rows.ts';

const NAME: ListenerName = 'fragmented';
const to = (side: Side, host: number) => ({ ip: side.ip(NET.pods, host), port: 514 });
const PIECE = Buffer.alloc(24, 0x5a);

/** The first piece of a datagram, with the UDP header; its checksum is over the whole, so here it may be anything. */
const first = (side: Side, id: number, fields: Partial<Ip & Udp> = {}, name: ListenerName = NAME) =>
  toListener(side, name, { fragment: { id, offset: 0, more: true }, payload: PIECE, ...fields });
/** A later piece: bytes only. */
const later = (side: Side, id: number, fields: Partial<Ip & Udp> = {}) =>
  toListener(side, NAME, { fragment: { id, offset: 32, more: false }, payload: PIECE, ...fields });
const middle = (side: Side, id: number) => later(side, id, { fragment: { id, offset: 64, more: true } });

const families = twins((side) => {
  const whole = toListener(side, NAME);
  const another = { src: side.ip(NET.clients, 8) };
  return [
    {
      name: 'later ones follow the first, in whatever order; the next datagram goes to the next downstream',
      steps: [
        forwarded(NAME, first(side, 1), to(side, 10)),
        followed(NAME, middle(side, 1), to(side, 10)),
        followed(NAME, later(side, 1), to(side, 10)),
        forwarded(NAME, whole, to(side, 11)),
      ],
    },
    {
      name: 'two datagrams at a time',
      steps: [
        forwarded(NAME, first(side, 1), to(side, 10)),
        forwarded(NAME, first(side, 2), to(side, 11)),
        followed(NAME, later(side, 1), to(side, 10)),
        followed(NAME, later(side, 2), to(side, 11)),
      ],
    },
    {
      name: 'the same identification of another sender is another datagram',
      steps: [
        forwarded(NAME, first(side, 1), to(side, 10)),
        forwarded(NAME, first(side, 1, another), to(side, 11)),
        followed(NAME, later(side, 1, another), to(side, 11)),
        followed(NAME, later(side, 1), to(side, 10)),
      ],
    },
    {
      name: 'the same identification to another address is another datagram',
      steps: [forwarded(NAME, first(side, 1), to(side, 10)), early(later(side, 1, { dst: side.ip(NET.pods, 1) }))],
    },
    {
      name: 'at the smallest, the largest and any other offset',
      steps: [
        forwarded(NAME, first(side, 1), to(side, 10)),
        ...[8, 2048, 32768, 65528].map((offset) =>
          followed(NAME, later(side, 1, { fragment: { id: 1, offset, more: false } }), to(side, 10)),
        ),
      ],
    },
    {
      name: 'the same identification on another interface is another datagram',
      steps: [forwarded(NAME, first(side, 1), to(side, 10)), early(later(side, 1), { on: 'eth1' })],
    },
    {
      name: 'a later one before the first: all of it is the safety net’s',
      steps: [
        early(later(side, 1)),
        early(middle(side, 1)),
        handed(NAME, 'fragment', first(side, 1), to(side, 10)),
        handedAfter(NAME, 'fragment', middle(side, 1), to(side, 10)),
        handedAfter(NAME, 'fragment', later(side, 1), to(side, 10)),
      ],
    },
    {
      name: 'a later one of another sender does not make the first the safety net’s',
      steps: [early(later(side, 1, another)), forwarded(NAME, first(side, 1), to(side, 10))],
    },
    {
      name: 'the identification used again by the same sender: the new datagram’s way holds',
      steps: [
        forwarded(NAME, first(side, 1), to(side, 10)),
        followed(NAME, later(side, 1), to(side, 10)),
        forwarded(NAME, first(side, 1), to(side, 11)),
        followed(NAME, later(side, 1), to(side, 11)),
      ],
    },
    {
      name: 'of a VIP, which is on no interface: what comes before the first is not left to routing',
      steps: [
        { ...early(later(side, 1, { dst: VIP[side.family] })), action: ACTION.SHOT },
        handed(vipOf(side.family), 'fragment', first(side, 1, { dst: VIP[side.family] }, vipOf(side.family)), {
          ip: side.ip(NET.pods, 11),
          port: 9001,
        }),
      ],
    },
    {
      name: 'of a VIP',
      steps: [
        forwarded(vipOf(side.family), first(side, 1, { dst: VIP[side.family] }, vipOf(side.family)), {
          ip: side.ip(NET.pods, 11),
          port: 9001,
        }),
        followed(vipOf(side.family), later(side, 1, { dst: VIP[side.family] }), {
          ip: side.ip(NET.pods, 11),
          port: 9001,
        }),
      ],
    },
    {
      name: 'of others: another port, another address, transit, whatever comes first',
      steps: [{ dport: 1 }, { dst: side.ip(NET.clients, 77) }, { dst: side.ip(NET.pods, 10) }].flatMap((fields) => [
        untouched(first(side, 1, fields).frame),
        'dst' in fields ? untouched(later(side, 1, fields).frame) : early(later(side, 1)),
        untouched(first(side, 1, fields).frame),
      ]),
    },
    {
      name: 'a first one that meets no downstream, and the later ones that nobody puts together',
      steps: [dropped('none', 'no_downstream', first(side, 1, {}, 'none')), early(later(side, 1))],
    },
    {
      name: 'in broadcast frames are the safety net’s',
      steps: [
        handed(NAME, 'not_unicast', first(side, 1, { dmac: 'ff:ff:ff:ff:ff:ff' }), to(side, 10)),
        handedAfter(NAME, 'not_unicast', later(side, 1, { dmac: 'ff:ff:ff:ff:ff:ff' }), to(side, 10)),
      ],
    },
    {
      name: 'later ones whose TTL has run out are handed over for where the first went',
      steps: [
        forwarded(NAME, first(side, 1), to(side, 10)),
        handedAfter(NAME, 'ttl_exceeded', later(side, 1, { ttl: 1 }), to(side, 10)),
      ],
    },
    {
      name: 'towards a blackhole all are dropped, the first is counted',
      steps: [
        dropped('blackhole', 'fib_blackhole', first(side, 1, {}, 'blackhole')),
        swallowed('blackhole', later(side, 1)),
      ],
    },
    {
      name: 'a first one as short as can be, in a padded frame: padding is not counted',
      steps: [
        forwarded(
          NAME,
          datagram(side.udp, { ...first(side, 1).fields, payload: Buffer.alloc(8, 1) }, Buffer.alloc(10, 0xee)),
          to(side, 10),
        ),
      ],
    },
    {
      name: 'a later one in a padded frame: padding is not counted',
      steps: [
        forwarded(NAME, first(side, 1), to(side, 10)),
        followed(
          NAME,
          datagram(side.udp, { ...later(side, 1).fields, payload: Buffer.alloc(8, 1) }, Buffer.alloc(18, 0xee)),
          to(side, 10),
        ),
      ],
    },
    {
      name: 'the length in a first one’s UDP header is the whole datagram’s',
      steps: [forwarded(NAME, first(side, 1, { udpLen: 4000 }), to(side, 10))],
    },
  ];
});

/** A fragment that follows into nothing. */
function swallowed(name: ListenerName, from: Datagram) {
  return { ...dropped(name, 'fib_blackhole', from), moved: { [name]: { bytes_received: from.bytes } } };
}

const ip4 = (fields: object) => datagram(udp4, { ...first(IPV4, 1).fields, ...fields });
const ip6 = (fields: object, trailer?: Buffer) => datagram(udp6, { ...first(IPV6, 1).fields, ...fields }, trailer);
const atomic = { fragment: { id: 1, offset: 0, more: false } };
const last = { fragment: { id: 1, offset: 32, more: false } };

export const FRAGMENTS: readonly Row[] = [
  ...families,
  {
    name: 'IPv4: a first one with options is the safety net’s, and so are its later ones, which have none',
    steps: [
      handed(NAME, 'ip_options', ip4({ ihlWords: 6 }), to(IPV4, 10)),
      handedAfter(NAME, 'fragment', later(IPV4, 1), to(IPV4, 10)),
    ],
  },
  {
    name: 'IPv4: a first one without room for a UDP header',
    steps: [20, 27].map((totLen) => dropped(NAME, 'malformed', ip4({ totLen }))),
  },
  {
    name: 'IPv4: a later one whose total length lies',
    steps: [
      forwarded(NAME, first(IPV4, 1), to(IPV4, 10)),
      ...[0, 19, 1500].map((totLen) => untouched(datagram(udp4, { ...later(IPV4, 1).fields, totLen }).frame)),
    ],
  },
  {
    name: 'IPv6: an atomic one (RFC 6946) is a whole datagram',
    steps: [10, 11].map((host) => forwarded(NAME, ip6(atomic), to(IPV6, host))),
  },
  {
    name: 'IPv6: an atomic one whose payload length has no room for UDP',
    steps: [0, 1, 7, 8, 15].map((payloadLen) => dropped(NAME, 'malformed', ip6({ ...atomic, payloadLen }))),
  },
  {
    name: 'IPv6: a first one whose payload length has no room for UDP',
    steps: [0, 7, 8, 15].map((payloadLen) => dropped(NAME, 'malformed', ip6({ payloadLen }))),
  },
  {
    name: 'IPv6: a later one whose payload length has no room for its fragment header, or lies',
    steps: [
      forwarded(NAME, first(IPV6, 1), to(IPV6, 10)),
      ...[0, 7, 1500].map((payloadLen) => untouched(ip6({ ...last, payloadLen }).frame)),
    ],
  },
  {
    name: 'IPv6: a later one of TCP',
    steps: [
      untouched(ofTcp(later(IPV6, 1).frame)),
      forwarded(NAME, first(IPV6, 1), to(IPV6, 10)),
      untouched(ofTcp(later(IPV6, 1).frame)),
    ],
  },
  {
    name: 'IPv6: extension headers before the fragment header are the safety net’s in every part',
    steps: [
      handed(NAME, 'ip_options', ip6({ extensions: [{ type: 'hop-by-hop' }] }), to(IPV6, 10)),
      handedAfter(NAME, 'ip_options', ip6({ ...last, extensions: [{ type: 'hop-by-hop' }] }), to(IPV6, 10)),
    ],
  },
];

/** The fragment header says what the whole datagram's first header is. */
function ofTcp(frame: Buffer): Buffer {
  frame[54] = 6;
  return frame;
}
