/** The safety net's packets as bytes: readdressed and cut up, put together again by the rules of RFC 791 and RFC 8200. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Family, SocketAddress } from '../../agent/address.ts';
import { EarlyFragments } from '../../agent/datapath/tc/handed/early-fragments.ts';
import {
  packetsOf,
  readdressed,
  readPacket,
  segmentsOf,
  tooBig,
  type UdpPacket,
} from '../../agent/datapath/tc/handed/packet.ts';
import { onesSum } from '../../lab/checksum.ts';
import { type Dissected, dissect } from '../../lab/dissect.ts';
import { fragments4, fragments6, type Udp, udp4, udp6 } from '../../lab/frame.ts';
import { ETHER, ethernet, type Ip, PROTOCOL } from '../../lab/ip.ts';

const ENDS = {
  4: { src: '10.0.0.9', dst: '10.0.0.1' },
  6: { src: 'fd00::9', dst: 'fd00::1' },
} as const;
const TO: Readonly<Record<Family, SocketAddress>> = {
  4: { family: 4, ip: '10.0.1.10', port: 514 },
  6: { family: 6, ip: 'fd01::10', port: 514 },
};
const HEADERS = { 4: 28, 6: 48 } as const;
const build = { 4: udp4, 6: udp6 } as const;

const fields = (family: Family, payload: Uint8Array, more: object = {}): Ip & Udp => ({
  ...ENDS[family],
  sport: 40000,
  dport: 9000,
  payload,
  ...more,
});
const read = (frame: Buffer): UdpPacket => {
  const packet = readPacket(frame.subarray(14));
  if (typeof packet === 'string') throw new Error(`the frame is ${packet}`);
  return packet;
};
const framed = (family: Family, packet: Uint8Array) =>
  dissect(ethernet({}, family === 4 ? ETHER.IPV4 : ETHER.IPV6, Buffer.from(packet)));

/** What a receiver makes of packets: the datagram whole, with the state of its checksum. */
function received(family: Family, packets: readonly Uint8Array[]): Dissected {
  const parts = packets.map((packet) => framed(family, packet));
  for (const { ip } of parts) expect(ip?.checksum).toBe('valid');
  if (parts.length === 1 && !parts[0]!.ip!.fragment) return parts[0]!;
  const sorted = parts.map(({ ip }) => ip!).sort((a, b) => a.fragment!.offset - b.fragment!.offset);
  let end = 0;
  for (const { fragment, body } of sorted) {
    expect(fragment!.offset, 'no hole and no overlap').toBe(end);
    end += body.length;
  }
  expect(sorted.map(({ fragment }) => fragment!.more)).toEqual(sorted.map((_, at) => at < sorted.length - 1));
  expect(new Set(sorted.map(({ fragment }) => fragment!.id)).size).toBe(1);
  const body = Buffer.concat(sorted.map((one) => one.body));
  const { src, dst } = sorted[0]!;
  return dissect(
    build[family]({
      ...fields(family, body.subarray(8)),
      src,
      dst,
      sport: body.readUInt16BE(0),
      dport: body.readUInt16BE(2),
      ...(body.readUInt16BE(6) === 0 && { csum: 'zero' as const }),
    }),
  );
}

const sent = (packet: UdpPacket, mtu: number) => packetsOf(readdressed(packet, TO[packet.family]), mtu, () => 4711);

describe.each([4, 6] as const)('IPv%i', (family) => {
  const payloads = fc.uint8Array({ maxLength: 9000, size: 'max' });

  test('a datagram of any size over a way of any MTU is whole at the receiver', () => {
    fc.assert(
      fc.property(payloads, fc.integer({ min: family === 4 ? 68 : 1280, max: 1600 }), (payload, mtu) => {
        const packets = sent(read(build[family](fields(family, payload))), mtu);
        for (const { length } of packets) expect(length).toBeLessThanOrEqual(mtu);
        expect(packets.length === 1).toBe(payload.length + HEADERS[family] <= mtu);
        const { ip, udp } = received(family, packets);
        expect([ip!.src, ip!.dst, ip!.ttl, udp!.sport, udp!.dport]).toEqual([
          ENDS[family].src,
          TO[family].ip,
          ip!.ttl,
          40000,
          514,
        ]);
        expect(udp!.checksum).toBe('valid');
        expect(Buffer.compare(udp!.payload, payload)).toBe(0);
      }),
      { seed: 1, numRuns: 200 },
    );
  });

  test('what the checksum covers is what leaves: the first fragment’s holds for the whole', () => {
    const payload = Buffer.alloc(4000, 0x5a);
    const frames = family === 4 ? fragments4(fields(4, payload)) : fragments6(fields(6, payload));
    const packets = frames.flatMap((frame) => sent(read(frame), family === 4 ? 600 : 1280));
    const whole = build[family]({ ...fields(family, payload), dst: TO[family].ip, dport: 514 });
    const first = framed(family, packets[0]!).ip!.body;
    expect(first.readUInt16BE(6)).toBe(whole.readUInt16BE(14 + (family === 4 ? 20 : 40) + 6));
    expect(Buffer.compare(received(family, packets).udp!.payload, payload)).toBe(0);
  });

  test('options stay behind, the traffic class and the TTL less one go on', () => {
    const more = {
      tos: 0xb8,
      ttl: 9,
      ...(family === 4 ? { ihlWords: 7 } : { extensions: [{ type: 'hop-by-hop' }, { type: 'destination' }] }),
    };
    const { ip, udp } = received(family, sent(read(build[family](fields(family, Buffer.from('hello'), more))), 1500));
    expect([ip!.length, ip!.tos, ip!.ttl]).toEqual([HEADERS[family] + 5, 0xb8, 8]);
    expect([udp!.checksum, udp!.payload.toString()]).toEqual(['valid', 'hello']);
  });

  test('a TTL at its end stays at one', () => {
    for (const ttl of [0, 1]) {
      const [packet] = sent(read(build[family](fields(family, Buffer.alloc(1), { ttl }))), 1500);
      expect(framed(family, packet!).ip!.ttl).toBe(1);
    }
  });

  test('a wrong checksum stays wrong', () => {
    const [wrong] = sent(read(build[family](fields(family, Buffer.from('hello'), { csum: 'wrong' }))), 1500);
    expect(framed(family, wrong!).udp!.checksum).toBe('wrong');
  });

  test('a checksum that was left to the hardware is finished', () => {
    const frame = build[family](fields(family, Buffer.from('hello!')));
    const at = 14 + (family === 4 ? 20 : 40) + 6;
    const addresses = frame.subarray(14 + (family === 4 ? 12 : 8), 14 + (family === 4 ? 20 : 40));
    frame.writeUInt16BE(onesSum(addresses, Buffer.from([0, PROTOCOL.UDP, 0, 14])), at);
    expect(dissect(frame).udp!.checksum).toBe('partial');
    const [packet] = sent(read(frame), 1500);
    expect(framed(family, packet!).udp!.checksum).toBe('valid');
  });

  test('a packet of several datagrams becomes those datagrams', () => {
    const payload = Buffer.from(Array.from({ length: 250 }, (_, at) => at));
    const datagrams = segmentsOf(read(build[family](fields(family, payload))), 100);
    const out = datagrams.map((one) => received(family, sent(one, 1500)).udp!);
    expect(out.map(({ payload: bytes }) => bytes.length)).toEqual([100, 100, 50]);
    expect(Buffer.concat(out.map(({ payload: bytes }) => bytes)).equals(payload)).toBe(true);
    expect(out.map(({ checksum }) => checksum)).toEqual(['valid', 'valid', 'valid']);
  });

  test('the ICMP error quotes the datagram as it was sent, and says the MTU', () => {
    const frame = build[family](fields(family, Buffer.alloc(1460, 1)));
    const error = framed(family, tooBig(read(frame), frame.subarray(14), 1400));
    expect([error.ip!.src, error.ip!.dst]).toEqual([ENDS[family].dst, ENDS[family].src]);
    const { type, code, body } = error.icmp!;
    expect([type, code]).toEqual(family === 4 ? [3, 4] : [2, 0]);
    const message = error.ip!.body;
    expect(family === 4 ? message.readUInt16BE(6) : message.readUInt32BE(4)).toBe(1400);
    expect(message.subarray(8).equals(frame.subarray(14, 14 + message.length - 8))).toBe(true);
    expect(error.ip!.length).toBeLessThanOrEqual(family === 4 ? 576 : 1280);
    expect(body.length).toBeGreaterThan(HEADERS[family]);
  });
});

test('IPv4: no checksum stays none', () => {
  const [none] = sent(read(udp4({ ...fields(4, Buffer.from('hello')), csum: 'zero' })), 1500);
  expect(framed(4, none!).udp!.checksum).toBe('zero');
});

describe('what lies', () => {
  test.each([
    ['a length beyond the packet', udp4({ ...fields(4, Buffer.alloc(8)), totLen: 60 }), 'malformed'],
    ['a length without room for UDP', udp4({ ...fields(4, Buffer.alloc(8)), totLen: 24 }), 'malformed'],
    ['a payload length beyond the packet', udp6({ ...fields(6, Buffer.alloc(8)), payloadLen: 60 }), 'malformed'],
  ])('%s', (_, frame, fault) => expect(readPacket(frame.subarray(14))).toBe(fault));

  test('a header checksum', () => {
    const frame = udp4(fields(4, Buffer.alloc(8)));
    frame[24]! ^= 1;
    expect(readPacket(frame.subarray(14))).toBe('ip_checksum');
  });
});

describe('fragments before their first one', () => {
  const rig = () => {
    let now = 0;
    const early = new EarlyFragments<string>(() => now);
    const pass = (ms: number) => {
      now += ms;
    };
    return { early, pass };
  };
  const bytes = (size: number, value = 1) => new Uint8Array(size).fill(value);

  test('wait for it, in their order, each datagram’s by itself', () => {
    const { early } = rig();
    early.keep('a', bytes(1, 1));
    early.keep('b', bytes(1, 2));
    early.keep('a', bytes(1, 3));
    expect(early.first('a', 'way').map(([value]) => value)).toEqual([1, 3]);
    expect(early.first('a', 'way')).toEqual([]);
    expect([early.known('a')?.way, early.known('b')]).toEqual(['way', undefined]);
  });

  test('are copies: the ring has been written over by then', () => {
    const { early } = rig();
    const record = bytes(1, 7);
    early.keep('a', record);
    record[0] = 9;
    expect(early.first('a', 'way')[0]![0]).toBe(7);
  });

  test('wait for three seconds at most, and the way is known no longer', () => {
    const { early, pass } = rig();
    early.keep('a', bytes(1));
    pass(2999);
    early.first('b', 'way');
    pass(1);
    expect(early.first('a', 'way')).toEqual([]);
    expect(early.known('b')?.way).toBe('way');
    pass(2999);
    expect(early.known('b')).toBeUndefined();
  });

  test('are lost with the first part that is, which is news once', () => {
    const { early } = rig();
    early.first('a', 'way');
    expect([early.lose('a', 'way'), early.lose('a', 'way'), early.known('a')?.lost]).toEqual([true, false, true]);
    expect([early.lose('b', 'other'), early.known('b')?.way]).toEqual([true, 'other']);
    early.first('a', 'new');
    expect(early.known('a')?.lost).toBe(false);
  });

  test('take 4 MiB at most, the oldest give way', () => {
    const { early } = rig();
    for (let at = 0; at < 5; at++) early.keep(`d${at}`, bytes(1 << 20));
    expect(early.first('d0', 'way')).toEqual([]);
    for (let at = 1; at < 5; at++) expect(early.first(`d${at}`, 'way')).toHaveLength(1);
  });
});

/**
 * A driver may give the sum of all of a packet (CHECKSUM_COMPLETE); no device here does. So the arithmetic alone: what the
 * kernel's helpers do to that sum (net/core/filter.c, net/core/utils.c), called as bpf/rewrite.h calls them.
 */
test('the sum of all of an IPv4 packet is right after a rewrite by hand', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 0, maxLength: 64 }), fc.integer({ min: 2, max: 255 }), (payload, ttl) => {
      const before = udp4({ ...fields(4, payload), ttl }).subarray(14);
      const after = udp4({ ...fields(4, payload), ttl: ttl - 1, dst: TO[4].ip, dport: 514 }).subarray(14);
      // bpf_csum_update: header and UDP checksum both make up for the address, and all else makes up for itself.
      const address = (packet: Buffer) => packet.subarray(16, 20);
      const sum = onesSum(
        before,
        address(before),
        address(after).map((byte) => ~byte),
      );
      expect(sum % 0xffff).toBe(onesSum(after) % 0xffff);
    }),
    { seed: 1, numRuns: 300 },
  );
});

describe('the sum of all of an IPv6 packet', () => {
  const not = (sum: number) => ~sum & 0xffff;
  const add = (...sums: readonly number[]) => onesSum(...sums.map((sum) => Buffer.from([sum >> 8, sum & 0xff])));
  /** `withFlag`: the kernel knows BPF_F_IPV6, or it takes the difference off and the program adds it again. */
  const rewritten = (before: Buffer, after: Buffer, withFlag: boolean, withHop = true): number => {
    const address = (packet: Buffer) => onesSum(packet.subarray(24, 40));
    const diff = add(address(after), not(address(before)));
    let sum = onesSum(before);
    // bpf_csum_update for the hop limit, in the word that it shares with the protocol.
    if (withHop) sum = add(sum, after[7]!, not(before[7]!));
    // bpf_l4_csum_replace: the field, and without the flag the sum; then bpf_csum_update.
    if (!withFlag) sum = add(add(sum, not(diff)), diff);
    return sum;
  };
  const equal = (a: number, b: number) => expect(a % 0xffff).toBe(b % 0xffff);

  test.each([true, false])('is right after the rewrite, with BPF_F_IPV6: %s', (withFlag) => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 0, maxLength: 64 }), fc.integer({ min: 2, max: 255 }), (payload, ttl) => {
        const before = udp6({ ...fields(6, payload), ttl }).subarray(14);
        const after = udp6({ ...fields(6, payload), ttl: ttl - 1, dst: TO[6].ip, dport: 514 }).subarray(14);
        equal(rewritten(before, after, withFlag), onesSum(after));
        // Without the hop limit's share it would not be.
        expect(rewritten(before, after, withFlag, false) % 0xffff).not.toBe(onesSum(after) % 0xffff);
      }),
      { seed: 1, numRuns: 300 },
    );
  });
});
