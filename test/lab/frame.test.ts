/** Frames, payloads and unions are plain functions: what is built reads back, and every lie and damage shows. */
import { describe, expect, it } from 'vitest';
import { dissect } from '../../lab/dissect.ts';
import { arp, fragments4, fragments6, tcp4, tcp6, udp4, udp6 } from '../../lab/frame.ts';
import { numberedPayload, readPayload } from '../../lab/payload.ts';
import { union } from '../../lab/union.ts';

const V4 = { src: '10.0.0.9', dst: '10.0.0.1', sport: 40000, dport: 9000 };
const V6 = { src: 'fd00::9', dst: 'fd00::1', sport: 40000, dport: 9000 };
const V6_IP = { src: 'fd00::9', dst: 'fd00::1', ttl: 64 };
const EXTENSIONS = [{ type: 'hop-by-hop' }, { type: 'destination', words: 2 }] as const;
const payload = Buffer.from('odd');

describe('frames', () => {
  it('agrees with a frame that a Linux host sent', () => {
    const sent = '020000000001020000000009080045000021fbfe400040112ac40a0000090a0000019c402328000de88f68656c6c6f';
    expect(udp4({ ...V4, id: 0xfbfe, payload: Buffer.from('hello') }).toString('hex')).toBe(sent);
  });

  it.each([
    ['plain', udp4({ ...V4, payload }), { ip: { ttl: 64, length: 31, df: true }, udp: { length: 11, payload } }],
    ['no payload', udp4(V4), { udp: { length: 8, checksum: 'valid' } }],
    ['TTL, TOS', udp4({ ...V4, ttl: 1, tos: 0xb8 }), { ip: { ttl: 1, tos: 0xb8 } }],
    ['no checksum', udp4({ ...V4, csum: 'zero' }), { udp: { checksum: 'zero' }, ip: { checksum: 'valid' } }],
    ['wrong checksum', udp4({ ...V4, csum: 'wrong' }), { udp: { checksum: 'wrong' } }],
    ['wrong IP checksum', udp4({ ...V4, ipCsum: 'wrong' }), { ip: { checksum: 'wrong' } }],
    ['options', udp4({ ...V4, ihlWords: 6, payload }), { ip: { length: 35, checksum: 'valid' }, udp: { payload } }],
    ['a lying total length', udp4({ ...V4, totLen: 20 }), { ip: { length: 20 } }],
    ['a lying UDP length', udp4({ ...V4, udpLen: 99 }), { udp: { length: 99, checksum: 'wrong' } }],
    ['VLAN', udp4({ ...V4, vlan: 100, payload }), { vlan: 100, etherType: 0x800, udp: { dport: 9000 } }],
    ['IPv6', udp6({ ...V6, payload }), { ip: { version: 6, length: 51, ...V6_IP }, udp: { checksum: 'valid' } }],
    ['IPv6, no checksum', udp6({ ...V6, csum: 'zero' }), { udp: { checksum: 'zero' } }],
    ['IPv6 with extensions', udp6({ ...V6, extensions: EXTENSIONS }), { udp: { dport: 9000, checksum: 'valid' } }],
    ['TCP', tcp4({ ...V4, flags: 0x12 }), { ip: { protocol: 6 }, tcp: { dport: 9000, flags: 0x12 } }],
    ['TCP over IPv6', tcp6(V6), { ip: { protocol: 6 }, tcp: { dport: 9000 } }],
    [
      'ARP',
      arp({ operation: 'request', src: V4.src, dst: V4.dst }),
      { dmac: 'ff:ff:ff:ff:ff:ff', arp: { dst: V4.dst } },
    ],
  ])('reads back: %s', (_, frame, fields) => {
    expect(dissect(frame)).toMatchObject(fields);
  });

  it.each([
    ['IPv4', fragments4({ ...V4, id: 7, payload: numberedPayload({ stream: 1, sequence: 1 }, 3000) })],
    ['IPv6', fragments6({ ...V6, payload: numberedPayload({ stream: 1, sequence: 1 }, 3000) }, 1500, 7)],
  ])('cuts a datagram over %s into fragments that make it up again', (_, frames) => {
    const parts = frames.map(dissect);
    expect(parts.map(({ ip }) => ip?.fragment?.more)).toEqual([...frames.slice(1).map(() => true), false]);
    expect(parts.every(({ ip }) => ip?.fragment?.id === 7 && ip.length <= 1500)).toBe(true);
    expect(parts[0]?.udp).toMatchObject({ dport: 9000, length: 3008, checksum: 'fragment' });
    const whole = Buffer.concat(parts.map(({ ip }) => ip!.body));
    expect(readPayload(whole.subarray(8))).toEqual({ stream: 1, sequence: 1 });
  });

  it('dissects every truncation of a frame without an error', () => {
    for (const frame of [udp4({ ...V4, vlan: 1 }), udp6({ ...V6, extensions: EXTENSIONS }), tcp4(V4)]) {
      for (let length = 0; length < frame.length; length++)
        expect(() => dissect(frame.subarray(0, length))).not.toThrow();
    }
  });
});

describe('payloads', () => {
  it('shows every single damaged byte, and a cut', () => {
    const whole = numberedPayload({ stream: 3, sequence: 1000 }, 100);
    expect(readPayload(whole)).toEqual({ stream: 3, sequence: 1000 });
    for (const at of [...whole.keys()].filter((at) => at < 4 || at >= 12)) {
      const damaged = Buffer.from(whole);
      damaged[at]! ^= 0x80;
      expect(readPayload(damaged)).toBeUndefined();
    }
    expect(readPayload(whole.subarray(0, 99))).toBeUndefined();
  });
});

describe('unions', () => {
  const tally = (stream: number, seen: number[], again = [0]) => ({
    ...{ stream, count: 0, lowest: 0, highest: seen.length * 8 - 1, gaps: 0, duplicates: 0, outOfOrder: 0 },
    seen: Buffer.from(seen).toString('base64'),
    again: Buffer.from(again).toString('base64'),
  });
  const sent = { streams: [{ stream: 1, from: '', count: 8 }] };

  it('adds receivers and reports up', () => {
    const [first, second] = [0b01010101, 0b10101010].map((bits) => ({ receivers: [{ streams: [tally(1, [bits])] }] }));
    expect(union([first!, second!], sent)).toEqual({ received: 8, missing: [], duplicated: [] });
    expect(union(first!, sent).missing.map(({ first }) => first)).toEqual([1, 3, 5, 7]);
  });

  it('finds a number twice at one receiver, at two, or never sent', () => {
    const streams = [tally(1, [0b00001111, 1], [0b1]), tally(1, [0b11001000]), tally(2, [0xff])];
    expect(union({ receivers: [{ streams }] }, sent)).toEqual({
      received: 6,
      missing: [{ stream: 1, first: 4, last: 5 }],
      duplicated: [
        { stream: 1, first: 0, last: 0 },
        { stream: 1, first: 3, last: 3 },
        { stream: 1, first: 8, last: 8 },
      ],
    });
  });
});
