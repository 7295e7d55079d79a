/** Lengths that lie, frames that are cut off. */
import { udp4, udp6 } from '../../../lab/frame.ts';
import { type ListenerName, portOf } from '../listeners.ts';
import { NET } from '../node.ts';
import {
  type Datagram,
  datagram,
  dropped,
  forwarded,
  handed,
  IPV4,
  IPV6,
  type Row,
  type Side,
  type Step,
  toListener,
  twins,
  untouched,
} from '../rows.ts';

const NAME: ListenerName = 'translated';
const to = (side: Side) => ({ ip: side.ip(NET.pods, 10), port: 514 });
const malformed = (from: Datagram): Step => dropped(NAME, 'malformed', from);
/** Where the UDP header begins and ends. */
const headerEnd = (side: Side) => (side.family === 4 ? 42 : 62);
const headerStart = (side: Side) => headerEnd(side) - 8;

/** A datagram, and a frame that claims to be it but is something else. */
const as = (from: Datagram, frame: Buffer): Datagram => ({ ...from, frame });

const families = twins((side) => {
  const whole = toListener(side, NAME, { payload: Buffer.alloc(18, 0x5a) });
  const cut = (length: number) => as(whole, whole.frame.subarray(0, length));
  const lengths = (from: number, end: number) => Array.from({ length: end - from }, (_, at) => from + at);
  const udpLen = (length: number, trailing = 0) =>
    datagram(side.udp, { ...whole.fields, udpLen: length }, Buffer.alloc(trailing, 0xee));
  return [
    {
      // Below its IP header's length the kernel takes no frame into a test run.
      name: 'a frame that ends before its UDP header does is nobody’s',
      steps: lengths(headerStart(side), headerEnd(side)).map((length) => untouched(cut(length).frame)),
    },
    {
      name: 'a frame that ends before its IP header says',
      steps: lengths(headerEnd(side), whole.frame.length).map((length) => malformed(cut(length))),
    },
    { name: 'a UDP length shorter than its header', steps: lengths(0, 8).map((length) => malformed(udpLen(length))) },
    {
      name: 'a UDP length longer than the IP payload',
      steps: [27, 28, 1000, 65535].map((length) => malformed(udpLen(length))),
    },
    {
      name: 'a UDP length longer than the IP payload, though the frame has as many bytes',
      steps: [malformed(udpLen(30, 4))],
    },
    {
      name: 'a UDP length shorter than the IP payload is legal: the rest goes along and is not counted',
      steps: [8, 9, 25].map((length) => forwarded(NAME, { ...udpLen(length), bytes: length - 8 }, to(side))),
    },
    {
      name: 'an empty datagram',
      steps: [forwarded(NAME, toListener(side, NAME, { payload: Buffer.alloc(0) }), to(side))],
    },
    {
      name: 'a lie in a broadcast frame is told as a lie',
      steps: [malformed({ ...toListener(side, NAME, { udpLen: 7, dmac: 'ff:ff:ff:ff:ff:ff' }), bytes: 0 })],
    },
    {
      name: 'a lie to a port that is not ours',
      steps: [untouched(toListener(side, NAME, { udpLen: 7, dport: 1 }).frame)],
    },
  ];
});

const fields4 = { ...toListener(IPV4, NAME).fields, dport: portOf(NAME), payload: Buffer.alloc(18, 0x5a) };
const total = (totLen: number, trailing = 0) => datagram(udp4, { ...fields4, totLen }, Buffer.alloc(trailing, 0xee));
const optioned = (ihlWords: number) => datagram(udp4, { ...fields4, ihlWords });
const fields6 = { ...fields4, ...toListener(IPV6, NAME).fields, payload: fields4.payload };
const payloadLen = (length: number) => datagram(udp6, { ...fields6, payloadLen: length });

const ip4: Row[] = [
  {
    name: 'a total length larger than the frame',
    steps: [47, 48, 1500, 65535].map((length) => malformed(total(length))),
  },
  { name: 'a total length smaller than the header', steps: [0, 1, 19].map((length) => malformed(total(length))) },
  { name: 'a total length without room for UDP', steps: [20, 21, 27].map((length) => malformed(total(length))) },
  { name: 'a total length shorter than the UDP length', steps: [28, 45].map((length) => malformed(total(length))) },
  { name: 'a total length that ends before the padding', steps: [forwarded(NAME, total(46, 14), to(IPV4))] },
  {
    name: 'options, of any length, are the safety net’s, also without TTL',
    steps: [6, 7, 10, 15]
      .map((words) => handed(NAME, 'ip_options', optioned(words), to(IPV4)))
      .concat(
        handed(NAME, 'ip_options', datagram(udp4, { ...fields4, ihlWords: 6, ttl: 0 }), to(IPV4)),
        dropped('none', 'no_downstream', datagram(udp4, { ...fields4, ihlWords: 6, dport: portOf('none') })),
      ),
  },
  {
    name: 'a header checksum that is wrong',
    steps: [1, 0x80].map((bits) => {
      const frame = Buffer.from(total(46).frame);
      frame[24]! ^= bits;
      const step = dropped(NAME, 'ip_checksum', { ...total(46), frame });
      return { ...step, moved: { [NAME]: { ...step.moved[NAME], bytes_received: 18 } } };
    }),
  },
  {
    name: 'options to a port that is not ours',
    steps: [untouched(datagram(udp4, { ...fields4, ihlWords: 6, dport: 1 }).frame)],
  },
  {
    name: 'options that reach beyond the frame',
    steps: [untouched(lyingIhl(total(46).frame, 15))],
  },
  {
    name: 'options and a length that lies',
    steps: [
      malformed(datagram(udp4, { ...fields4, ihlWords: 6, udpLen: 7 })),
      malformed(datagram(udp4, { ...fields4, ihlWords: 6, totLen: 23 })),
    ],
  },
];

const ip6: Row[] = [
  {
    name: 'a payload length larger than the frame',
    steps: [27, 28, 1500, 65535].map((length) => malformed(payloadLen(length))),
  },
  { name: 'a payload length without room for UDP', steps: [0, 1, 7].map((length) => malformed(payloadLen(length))) },
  {
    name: 'a payload length shorter than the UDP length',
    steps: [8, 25].map((length) => malformed(payloadLen(length))),
  },
];

function lyingIhl(frame: Buffer, words: number): Buffer {
  frame[14] = 0x40 | words;
  return frame;
}

const named = (family: string, rows: readonly Row[]) =>
  rows.map(({ name, steps }) => ({ name: `${family}: ${name}`, steps }));

export const LENGTHS: readonly Row[] = [...families, ...named('IPv4', ip4), ...named('IPv6', ip6)];
