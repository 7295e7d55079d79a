/**
 * What a forwarded frame looks like. The frame that is expected is built anew from its fields, so a row also says that
 * nothing but destination, TTL and checksums differs.
 */
import { onesSum } from '../../../lab/checksum.ts';
import { type Udp, udp4 } from '../../../lab/frame.ts';
import type { Ip } from '../../../lab/ip.ts';
import { NET } from '../node.ts';
import { datagram, forwarded, handed, IPV4, type Row, type Side, toListener, twins } from '../rows.ts';

/** Where in a frame without options the UDP checksum lies. */
const checksumAt = (side: Side) => (side.family === 4 ? 40 : 60);

/** Two bytes of payload that make the checksum of the datagram come out as 0, were it sent to `to` already. */
function payloadOfSumZero(side: Side, to: Partial<Ip & Udp>): Buffer {
  const { frame } = toListener(side, 'translated', { ...to, payload: Buffer.alloc(2) });
  return frame.subarray(checksumAt(side), checksumAt(side) + 2);
}

/** Two bytes of payload that make the checksum the sum of the pseudo header alone, as where the hardware is to make it. */
function payloadOfPseudoSum(side: Side): Buffer {
  const { frame } = toListener(side, 'translated', { payload: Buffer.alloc(2) });
  const at = checksumAt(side);
  const [source, length] = side.family === 4 ? [26, 8] : [22, 32];
  const pseudo = onesSum(frame.subarray(source, source + length), Buffer.from([0, 17]), frame.subarray(at - 2, at));
  const wanted = Buffer.from([~(pseudo >> 8), ~pseudo]);
  const sum = onesSum(wanted, frame.subarray(at, at + 2));
  return Buffer.from([sum >> 8, sum]);
}

const families = twins((side) => {
  const to = { ip: side.ip(NET.pods, 10), port: 514 };
  const samePort = { ip: side.ip(NET.pods, 10), port: 9000 };
  const sent = (fields: Partial<Ip & Udp>) => forwarded('translated', toListener(side, 'translated', fields), to);
  const spent = (ttl: number) => handed('translated', 'ttl_exceeded', toListener(side, 'translated', { ttl }), to);
  const zero = { payload: payloadOfSumZero(side, { dst: to.ip, dport: to.port }) };
  return [
    { name: 'address and port', steps: [sent({})] },
    {
      name: 'the address alone where the port is the same',
      steps: [forwarded('wild', toListener(side, 'wild'), samePort)],
    },
    {
      name: 'payloads of every length mod 4',
      steps: [0, 1, 2, 3, 4, 1452].map((size) => sent({ payload: Buffer.alloc(size, 0xa5) })),
    },
    { name: 'a payload of ones', steps: [sent({ payload: Buffer.alloc(64, 0xff) })] },
    { name: 'a payload of zeroes', steps: [sent({ payload: Buffer.alloc(64) })] },
    {
      name: 'no checksum into no checksum',
      steps: [sent({ csum: 'zero' }), sent({ csum: 'zero', payload: zero.payload })],
    },
    {
      name: 'a wrong checksum into one that is wrong by as much',
      steps: [sent({ csum: 'wrong' }), sent({ csum: 'wrong', ...zero })],
    },
    { name: 'a checksum that comes out as 0 into all ones', steps: [sent(zero)] },
    { name: 'a checksum of all ones', steps: [sent({ payload: payloadOfSumZero(side, {}) })] },
    {
      name: 'a checksum that is 0 on the way, between address and port',
      steps: [sent({ payload: payloadOfSumZero(side, { dst: to.ip }) })],
    },
    {
      name: 'a checksum that looks as if the hardware were to make it',
      steps: [sent({ payload: payloadOfPseudoSum(side) })],
    },
    { name: 'the TTL, by one', steps: [255, 64, 3, 2].map((ttl) => sent({ ttl })) },
    { name: 'not the TTL that runs out here', steps: [spent(1), spent(0)] },
    { name: 'not the traffic class', steps: [0, 1, 3, 0xb8, 0xff].map((tos) => sent({ tos })) },
    { name: 'not the source', steps: [sent({ sport: 1 }), sent({ sport: 65535, src: side.ip(NET.nowhere, 9) })] },
    {
      name: 'not the padding of a short frame',
      steps: [
        forwarded(
          'translated',
          datagram(
            side.udp,
            { ...toListener(side, 'translated').fields, payload: Buffer.from('x') },
            Buffer.alloc(17, 0xee),
          ),
          to,
        ),
      ],
    },
  ];
});

/** Header checksums at the edges of ones' complement arithmetic come from walking through all identifications. */
const identifications = Array.from({ length: 4096 }, (_, at) => {
  const fields = { ...toListener(IPV4, 'translated').fields, id: at * 16, csum: 'zero' as const };
  return forwarded('translated', datagram(udp4, fields), { ip: IPV4.ip(NET.pods, 10), port: 514 });
});

export const REWRITING: readonly Row[] = [
  ...families,
  { name: 'IPv4: the header checksum of any identification', steps: identifications },
  {
    name: 'IPv4: not the flags: may be fragmented, must not be',
    steps: [true, false].map((df) => {
      const fields = { ...toListener(IPV4, 'translated').fields, df };
      return forwarded('translated', datagram(udp4, fields), { ip: IPV4.ip(NET.pods, 10), port: 514 });
    }),
  },
];
