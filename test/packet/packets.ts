/** Random packets for the oracle: most are nearly right and nearly ours, since only those reach the deep places. */
import fc from 'fast-check';
import { onesSum } from '../../lab/checksum.ts';
import { type Udp, udp4, udp6 } from '../../lab/frame.ts';
import { ETHER, type Ip, type Ip6 } from '../../lab/ip.ts';
import { LISTENERS, SECOND_VIP, VIP } from './listeners.ts';
import { ip, NET } from './node.ts';
import { brief } from './reading.ts';
import type { Arrival } from './rig.ts';

export interface Packet {
  readonly frame: Buffer;
  readonly arrival: Arrival;
}

const often = <T>(usual: T, ...rare: readonly T[]) =>
  fc.oneof({ weight: 9, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constantFrom(...rare) });

const PORTS = [...new Set(Object.values(LISTENERS).map(({ bind }) => Number(/\d+$/.exec(bind)![0]))), 1];
/** Of one Ethernet header and an IPv4 or IPv6 header: the kernel takes no shorter frame into a test run. */
const SHORTEST = { [ETHER.IPV4]: 34, [ETHER.IPV6]: 54 } as const;

const description = fc.record({
  family: fc.constantFrom(4 as const, 6 as const),
  client: often<number | 'pod' | 'host'>(9, 8, 1, 'pod', 'host'),
  martian: often<0 | 1 | 2>(0, 1, 2),
  destination: fc.constantFrom('node', 'node', 'node', 'pods', 'vip', 'second', 'transit', 'zero'),
  dport: fc.constantFrom(...PORTS),
  ttl: often(64, 0, 1, 2, 255),
  tos: often(0, 3, 0xb8),
  csum: often<'valid' | 'zero' | 'wrong'>('valid', 'zero', 'wrong'),
  // Around the MTUs of both families' limited links, and of all.
  size: fc.oneof(fc.nat(40), often(0, 1252, 1253, 1272, 1273, 1352, 1353, 1372, 1373, 1452, 1453, 1472, 1473)),
  word: fc.nat(0xffff),
  id: fc.constantFrom(1, 2),
  fragment: fc.oneof(
    { weight: 6, arbitrary: fc.constant(undefined) },
    { weight: 2, arbitrary: fc.record({ offset: fc.constantFrom(0, 0, 32, 64, 32768), more: fc.boolean() }) },
  ),
  words: often(0, 1, 2, 10),
  extensions: often<NonNullable<Ip6['extensions']>>(
    [],
    [{ type: 'hop-by-hop' }],
    [{ type: 'destination', words: 1 }],
    [{ type: 'routing' }, { type: 'destination' }],
    new Array(6).fill({ type: 'destination' }),
    new Array(7).fill({ type: 'destination' }),
  ),
  mac: often<string | undefined>(undefined, 'ff:ff:ff:ff:ff:ff', '01:00:5e:00:00:01', '02:00:00:00:00:77'),
  vlan: often<number | undefined>(undefined, 7),
  ipLength: often(0, -1500, -33, -21, -14, -8, -1, 1, 14, 1500),
  udpLength: often(0, -14, -8, -1, 1, 8, 1500),
  cut: often(0, 1, 4, 8, 13, 20, 40),
  trailer: often(0, 1, 14, 18),
  flips: fc.oneof(
    { weight: 8, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: fc.array(fc.tuple(fc.nat(80), fc.integer({ min: 1, max: 255 })), { maxLength: 3 }) },
  ),
  on: often<'eth0' | 'eth1'>('eth0', 'eth1'),
  gso: often<{ gsoSize: number; gsoSegments: number } | undefined>(
    undefined,
    { gsoSize: 10, gsoSegments: 3 },
    { gsoSize: 1400, gsoSegments: 2 },
    { gsoSize: 5, gsoSegments: 0 },
  ),
});
type Description = typeof description extends fc.Arbitrary<infer T> ? T : never;

/** A frame and how it arrives, with its description in the failure's text. */
export const packet: fc.Arbitrary<Packet> = description.map((described) => {
  const frame = build(described);
  const arrival = { on: described.on, ...described.gso };
  const text = `${JSON.stringify(arrival)} ${brief(frame)}`;
  return Object.defineProperty({ frame, arrival }, fc.toStringMethod, { value: () => text, enumerable: false });
});

function build(described: Description): Buffer {
  const { family, mac, vlan, fragment, id } = described;
  const payload = Buffer.alloc(described.size, 0x5a);
  // The first bytes of the payload make the checksum anything.
  if (payload.length >= 2) payload.writeUInt16BE(described.word);
  const fields: Ip & Udp = {
    src: source(described),
    dst: destination(described),
    sport: 40000,
    dport: described.dport,
    ttl: described.ttl,
    tos: described.tos,
    csum: described.csum,
    payload,
    ...(fragment && { fragment: { ...fragment, id } }),
    ...(mac !== undefined && { dmac: mac }),
    ...(vlan !== undefined && { vlan }),
    udpLen: Math.max(0, 8 + payload.length + described.udpLength),
  };
  const whole =
    family === 4
      ? udp4({ ...fields, ihlWords: 5 + described.words })
      : udp6({ ...fields, extensions: described.extensions });
  return damaged(whole, described);
}

function damaged(whole: Buffer, { family, ipLength, cut, trailer, flips }: Description): Buffer {
  const at = family === 4 ? 16 : 18;
  whole.writeUInt16BE((whole.readUInt16BE(at) + ipLength) & 0xffff, at);
  if (family === 4 && whole.readUInt16BE(12) === ETHER.IPV4) {
    // The length lies, but its header is whole; what the flips do to it is another matter.
    const header = whole.subarray(14, 14 + (whole[14]! & 0xf) * 4);
    header.writeUInt16BE(0, 10);
    header.writeUInt16BE(0xffff - onesSum(header), 10);
  }
  for (const [byte, bits] of flips) if (byte < whole.length) whole[byte]! ^= bits;
  const frame = Buffer.concat([whole.subarray(0, whole.length - cut), Buffer.alloc(trailer, 0xee)]);
  const type: number = whole.readUInt16BE(12);
  const missing = (type === ETHER.IPV6 ? SHORTEST[ETHER.IPV6] : SHORTEST[ETHER.IPV4]) - frame.length;
  return missing > 0 ? Buffer.concat([frame, Buffer.alloc(missing)]) : frame;
}

function source({ family, client, martian }: Description): string {
  const pods = { pod: 10, host: 254 };
  if (martian === 0)
    return typeof client === 'string' ? ip(family, NET.pods, pods[client]) : ip(family, NET.clients, client);
  return family === 4 ? ['127.0.0.1', '239.1.1.1'][martian - 1]! : ['::1', 'ff05::1'][martian - 1]!;
}

function destination({ family, destination }: Description): string {
  switch (destination) {
    case 'node':
      return ip(family, NET.clients, 1);
    case 'pods':
      return ip(family, NET.pods, 1);
    case 'vip':
      return VIP[family];
    case 'second':
      return SECOND_VIP[family];
    case 'transit':
      return ip(family, NET.pods, 10);
    default:
      return family === 4 ? '0.0.0.0' : '::';
  }
}
