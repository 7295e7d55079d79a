/** IPv6 extension headers (RFC 8200, section 4): walked to find the port, then the safety net's. */
import { udp6 } from '../../../lab/frame.ts';
import { type Ip6, ip6 } from '../../../lab/ip.ts';
import { type ListenerName, portOf } from '../listeners.ts';
import { NET } from '../node.ts';
import { datagram, dropped, handed, IPV6, type Row, toListener, untouched } from '../rows.ts';

type Extensions = NonNullable<Ip6['extensions']>;
const NAME: ListenerName = 'translated';
const FIELDS = toListener(IPV6, NAME).fields;
const DESTINATION = { type: 'destination' } as const;
const LIMIT = 6;

const withChain = (extensions: Extensions) => datagram(udp6, { ...FIELDS, extensions });
const TO = { ip: IPV6.ip(NET.pods, 10), port: 514 };
const options = (extensions: Extensions) => handed(NAME, 'ip_options', withChain(extensions), TO);
const chain = (length: number) => new Array(length).fill(DESTINATION);

/** ESP and AH: 50 and 51; Mobility, HIP, Shim6: 135, 139, 140; no next header: 59. */
const OTHERS = [50, 51, 59, 135, 139, 140, 253];
const udpBytes = datagram(udp6, FIELDS).frame.subarray(54);

/** A chain whose last header names `next`. */
function before(next: number): Buffer {
  return ip6({ ...FIELDS, extensions: [DESTINATION] }, next, udpBytes);
}

export const EXTENSIONS: readonly Row[] = [
  { name: 'hop-by-hop options', steps: [options([{ type: 'hop-by-hop' }])] },
  { name: 'destination options', steps: [options([DESTINATION])] },
  { name: 'a routing header', steps: [options([{ type: 'routing' }])] },
  {
    name: 'long ones',
    steps: [options([{ type: 'hop-by-hop', words: 31 }]), options([{ type: 'destination', words: 255 }])],
  },
  {
    name: 'all of them',
    steps: [options([{ type: 'hop-by-hop' }, DESTINATION, { type: 'routing', words: 2 }, DESTINATION])],
  },
  { name: `a chain of ${LIMIT}`, steps: [options(chain(LIMIT))] },
  {
    name: `a chain of more than ${LIMIT} is not walked to its end`,
    steps: [untouched(withChain(chain(LIMIT + 1)).frame)],
  },
  {
    name: 'before a port that is not ours',
    steps: [untouched(datagram(udp6, { ...FIELDS, dport: 1, extensions: [DESTINATION] }).frame)],
  },
  {
    name: 'a fragment header counts as one of the chain',
    steps: [
      handed(
        NAME,
        'ip_options',
        datagram(udp6, { ...FIELDS, extensions: chain(LIMIT - 1), fragment: { id: 1, offset: 0, more: false } }),
        TO,
      ),
      untouched(
        datagram(udp6, { ...FIELDS, extensions: chain(LIMIT), fragment: { id: 1, offset: 0, more: false } }).frame,
      ),
    ],
  },
  {
    name: 'that reach beyond the frame',
    steps: [
      untouched(longer(withChain([DESTINATION]).frame)),
      untouched(withChain([DESTINATION]).frame.subarray(0, 58)),
    ],
  },
  {
    name: 'that reach beyond what the payload length says, but not beyond the frame',
    steps: [0, 7, 8, 15].map((payloadLen) =>
      dropped(NAME, 'malformed', datagram(udp6, { ...FIELDS, extensions: [DESTINATION], payloadLen })),
    ),
  },
  {
    name: 'in a packet that the frame does not hold',
    steps: [1500, 65535].map((payloadLen) =>
      dropped(NAME, 'malformed', datagram(udp6, { ...FIELDS, extensions: [DESTINATION], payloadLen })),
    ),
  },
  {
    name: 'without a TTL or a downstream',
    steps: [
      handed(NAME, 'ip_options', datagram(udp6, { ...FIELDS, ttl: 0, extensions: [DESTINATION] }), TO),
      dropped('none', 'no_downstream', datagram(udp6, { ...FIELDS, dport: portOf('none'), extensions: [DESTINATION] })),
    ],
  },
  ...OTHERS.map((next) => ({
    name: `protocol ${next} is nobody’s, at once or behind another header`,
    steps: [untouched(ip6(FIELDS, next, udpBytes)), untouched(before(next))],
  })),
];

/** The first extension header claims to be as long as can be. */
function longer(frame: Buffer): Buffer {
  frame[55] = 255;
  return frame;
}
