/** The real program, packet by packet: the tables of tables/ through BPF_PROG_TEST_RUN. */
import { execFileSync } from 'node:child_process';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { formatAddress } from '../../agent/address.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { ACTION } from '../../lab/test-run.ts';
import { LISTENERS, type ListenerName } from './listeners.ts';
import { ip, NET } from './node.ts';
import { brief } from './reading.ts';
import { Rig } from './rig.ts';
import { IPV4, IPV6, type Row, toListener } from './rows.ts';
import { EXTENSIONS } from './tables/extensions.ts';
import { FRAGMENTS } from './tables/fragments.ts';
import { LENGTHS } from './tables/lengths.ts';
import { MATCHING } from './tables/matching.ts';
import { FAILED_NEIGHBOURS, FORWARDING_OFF, NEXT_HOPS } from './tables/nexthops.ts';
import { REWRITING } from './tables/rewriting.ts';
import { SPREADING } from './tables/spreading.ts';

const noState = lacking('neighbour_state');
const root = process.getuid?.() === 0;
let rig: Rig<ListenerName>;

/** Runs a row and holds each step against what it expects, and against the law of conservation. */
function play({ steps }: Row): void {
  for (const [step, { frame, arrival, action, out, moved, handed }] of steps.entries()) {
    const outcome = rig.run(frame, arrival);
    const to = handed?.to && { to: formatAddress({ family: handed.to.ip.includes(':') ? 6 : 4, ...handed.to }) };
    const given = handed && { handed: { verdict: handed.verdict, ...to, packet: frame.toString('hex', 14) } };
    const expected = { step, action, frame: brief(out), moved, ...given };
    expect({ step, ...outcome, frame: brief(outcome.frame) }).toEqual(expected);
    for (const counters of Object.values(outcome.moved)) expect(fates(counters)).toBe(counters.pkts_received ?? 0);
  }
}

const fates = ({ pkts_forwarded = 0, pkts_to_safety_net = 0, pkts_dropped = 0 }: Readonly<Record<string, number>>) =>
  pkts_forwarded + pkts_to_safety_net + pkts_dropped;

/** The last part of the addresses that so many datagrams of a listener went to. */
function walk(name: ListenerName, count: number): string {
  const { frame } = toListener(IPV4, name);
  return Array.from({ length: count }, () => rig.run(frame).frame[33]).join(' ');
}

describe.skipIf(!root)('the program (needs root)', () => {
  beforeAll(() => {
    rig = new Rig(LISTENERS);
  });
  afterAll(() => rig?.[Symbol.dispose]());
  beforeEach(() => rig.rewind());

  describe('matches', () => test.each(MATCHING)('$name', play));
  describe('spreads', () => test.each(SPREADING)('$name', play));
  describe('rewrites', () => test.each(REWRITING)('$name', play));
  describe('believes no length', () => test.each(LENGTHS)('$name', play));
  describe('keeps fragments together', () => test.each(FRAGMENTS)('$name', play));
  describe('hands over extension headers', () => test.each(EXTENSIONS)('$name', play));
  describe('finds the next hop', () => test.each(NEXT_HOPS)('$name', play));
  describe.skipIf(noState)(titled('asks for a neighbour', noState), () => test.each(FAILED_NEIGHBOURS)('$name', play));

  describe('with forwarding off', () => {
    // The agent asks for the way out when it builds the slots, so it has to look again.
    const set = (on: boolean) => {
      rig.node.forward(on);
      rig.apply(LISTENERS);
    };
    beforeAll(() => set(false));
    afterAll(() => set(true));
    test.each(FORWARDING_OFF)('$name', play);
  });

  test('counts as the agent reads it', () => {
    const { frame } = toListener(IPV4, 'nowhere', { payload: Buffer.alloc(10) });
    for (let left = 3; left > 0; left--) rig.run(frame);
    rig.run(toListener(IPV4, 'none', { payload: Buffer.alloc(7) }).frame);
    rig.run(toListener(IPV6, 'local', { payload: Buffer.alloc(6) }).frame);
    const read = new Map(rig.datapath.counters().map((counters) => [counters.listener.name, counters]));
    expect(read.get('nowhere')).toMatchObject({ received: 3, forwarded: 0, bytesReceived: 30, bytesForwarded: 0 });
    expect(read.get('nowhere')!.toSafetyNet.get('no_route')).toBe(3);
    expect([...read.get('nowhere')!.downstreams.values()]).toEqual([0, 0]);
    expect(read.get('none')).toMatchObject({ received: 1, forwarded: 0, bytesReceived: 7, bytesForwarded: 0 });
    expect(read.get('none')!.dropped.get('no_downstream')).toBe(1);
    expect(read.get('local')).toMatchObject({ received: 1, forwarded: 1, bytesReceived: 6, bytesForwarded: 6 });
  });

  test('remembers nothing of fragments that are not ours', () => {
    const later = { fragment: { id: 1, offset: 32, more: false }, payload: Buffer.alloc(24) };
    for (const side of [IPV4, IPV6]) {
      rig.run(toListener(side, 'fragmented', { ...later, dst: side.ip(NET.pods, 10) }).frame);
    }
    expect(rig.remembered()).toBe(0);
    rig.run(toListener(IPV4, 'fragmented', later).frame);
    expect(rig.remembered()).toBe(1);
  });

  test('forgets a fragmented datagram after 3 seconds, before its identification is used again', () => {
    const part = (offset: number) =>
      toListener(IPV4, 'fragmented', { fragment: { id: 1, offset, more: true }, payload: Buffer.alloc(24) }).frame;
    rig.run(part(0));
    rig.age(2);
    expect(rig.run(part(32)).action).toBe(ACTION.REDIRECT);
    rig.age(2);
    expect(rig.run(part(64))).toMatchObject({ action: ACTION.UNSPEC, handed: { verdict: 'fragment' } });
    expect(rig.run(part(0)).moved).toMatchObject({ fragmented: { fragment: 1 } });
    rig.age(4);
    expect(rig.run(part(0)).moved).toMatchObject({ fragmented: { forwarded: 1 } });
  });

  describe('after a swap between two fragments of a datagram', () => {
    const BYTES = 24;
    const part = (side: typeof IPV4, name: ListenerName, offset: number) =>
      toListener(side, name, { fragment: { id: 1, offset, more: true }, payload: Buffer.alloc(BYTES) }).frame;
    const begin = (side: typeof IPV4, name: ListenerName = 'fragmented') => rig.run(part(side, name, 0));
    const goOn = (side: typeof IPV4, name: ListenerName = 'fragmented') => rig.run(part(side, name, 32));
    /** Takes the downstreams at these places away, of both families. */
    const without = (name: ListenerName, ...places: readonly number[]) => {
      const to = LISTENERS[name].to.filter((_, at) => !places.includes(at >> 1));
      rig.apply({ ...LISTENERS, [name]: { ...LISTENERS[name], to } });
    };
    const lost = { torn_downstream_gone: 1, bytes_received: BYTES };
    afterEach(() => rig.apply(LISTENERS));

    test.each([IPV4, IPV6])('IPv$family: the rest follows if its downstream is still there', (side) => {
      begin(side);
      without('fragmented', 1);
      const { action, frame, moved } = goOn(side);
      expect({ action, moved }).toEqual({
        action: ACTION.REDIRECT,
        moved: { fragmented: { bytes_received: BYTES, bytes_forwarded: BYTES } },
      });
      expect(frame[side.family === 4 ? 33 : 53], 'the last part of where it went').toBe(10);
    });

    test.each([IPV4, IPV6])('IPv$family: nothing goes to one that is gone; what is lost is counted once', (side) => {
      begin(side);
      without('fragmented', 0);
      expect(goOn(side)).toMatchObject({ action: ACTION.SHOT, moved: { fragmented: lost } });
      expect(goOn(side)).toMatchObject({ action: ACTION.SHOT, moved: { fragmented: { bytes_received: BYTES } } });
      expect(goOn(side).moved.fragmented).toEqual({ bytes_received: BYTES });
      // The next datagram with that identification is a new one.
      expect(begin(side)).toMatchObject({ action: ACTION.REDIRECT, moved: { fragmented: { forwarded: 1 } } });
      expect(goOn(side).action).toBe(ACTION.REDIRECT);
    });

    test.each([IPV4, IPV6])(
      'IPv$family: what the safety net has from the first part on is its own to judge',
      (side) => {
        goOn(side);
        begin(side);
        without('fragmented', 0);
        const handed = {
          verdict: 'fragment',
          to: formatAddress({ family: side.family, ip: side.ip(NET.pods, 10), port: 514 }),
        };
        const moved = { fragmented: { bytes_received: BYTES } };
        expect(goOn(side)).toMatchObject({ action: ACTION.SHOT, moved, handed });
      },
    );

    test('nor after several swaps', () => {
      begin(IPV4);
      without('fragmented', 0);
      without('fragmented', 0, 1);
      expect(goOn(IPV4)).toMatchObject({ action: ACTION.SHOT, moved: { fragmented: lost } });
    });

    test('each of many downstreams is told from its neighbour', () => {
      const turns = (count: number) => {
        const { frame } = toListener(IPV4, 'many');
        for (let left = count; left > 0; left--) rig.run(frame);
      };
      turns(300);
      begin(IPV4, 'many');
      without('many', 299, 301);
      expect(goOn(IPV4, 'many').action).toBe(ACTION.REDIRECT);
      rig.apply(LISTENERS);
      rig.rewind();
      turns(300);
      begin(IPV4, 'many');
      without('many', 300);
      expect(goOn(IPV4, 'many')).toMatchObject({ action: ACTION.SHOT, moved: { many: lost } });
    });
  });

  describe('a datagram that is lost after its first part counts as received once', () => {
    const part = (offset: number, fields: object = {}) =>
      toListener(IPV4, 'fragmented', { fragment: { id: 1, offset, more: true }, payload: Buffer.alloc(24), ...fields });
    const fill = () => {
      for (const size of [3000, 1]) rig.fill(toListener(IPV4, 'nowhere', { payload: Buffer.alloc(size) }).frame);
    };
    const bytes = { bytes_received: 24 };
    afterEach(() => rig.empty());

    test('forwarded and torn, where the first one left', () => {
      expect(rig.run(part(0).frame).moved).toEqual({
        fragmented: { ...bytes, pkts_received: 1, pkts_forwarded: 1, forwarded: 1, bytes_forwarded: 24 },
      });
      fill();
      const rest = [32, 64].map((offset) => rig.run(part(offset, { ttl: 1 }).frame));
      expect(rest.map(({ action }) => action)).toEqual([ACTION.SHOT, ACTION.SHOT]);
      expect(rest.map(({ moved }) => moved.fragmented)).toEqual([{ ...bytes, torn_safety_net_full: 1 }, bytes]);
    });

    test('dropped and nothing else, where there was no room for the first one either', () => {
      fill();
      const lost = { ...bytes, pkts_received: 1, pkts_dropped: 1, safety_net_full: 1 };
      expect(rig.run(part(0, { ttl: 1 }).frame).moved).toEqual({ fragmented: lost });
      rig.empty();
      for (const offset of [32, 64]) {
        expect(rig.run(part(offset).frame)).toMatchObject({ action: ACTION.SHOT, moved: { fragmented: bytes } });
      }
    });

    test('by a route that changes in between, in the name of what it is now', () => {
      rig.run(part(0).frame);
      const route = `${IPV4.ip(NET.pods, 10)}/32`;
      execFileSync('ip', ['route', 'add', 'blackhole', route]);
      try {
        expect(rig.run(part(32).frame).moved).toEqual({ fragmented: { ...bytes, torn_fib_blackhole: 1 } });
      } finally {
        execFileSync('ip', ['route', 'del', 'blackhole', route]);
      }
      expect(rig.run(part(64).frame)).toMatchObject({ action: ACTION.SHOT, moved: { fragmented: bytes } });
    });
  });

  test('counts each downstream’s datagrams', () => {
    const counts = () => [...rig.datapath.counters().find(({ listener }) => listener.name === 'three')!.downstreams];
    const before = new Map(counts());
    walk('three', 7);
    const got = counts().map(([address, count]) => [address, count - before.get(address)!]);
    const pods = ([4, 6] as const).flatMap((family) =>
      [10, 11, 12].map((host) => (family === 4 ? ip(4, NET.pods, host) : `[${ip(6, NET.pods, host)}]`)),
    );
    expect(got).toEqual(pods.map((pod, at) => [`${pod}:9011`, [3, 2, 2, 0, 0, 0][at]]));
  });

  test('counts each of many downstreams', () => {
    const counts = () => [
      ...rig.datapath
        .counters()
        .find(({ listener }) => listener.name === 'many')!
        .downstreams.values(),
    ];
    const before = counts();
    walk('many', 10);
    const got = counts().map((count, at) => count - before[at]!);
    expect(got.slice(0, 12)).toEqual([...new Array(10).fill(1), 0, 0]);
    expect(got.reduce((sum, count) => sum + count)).toBe(10);
  });

  test('walks on in a table that became shorter, longer or empty', () => {
    const withDownstreams = (count: number) =>
      rig.apply({ ...LISTENERS, three: { ...LISTENERS.three, to: LISTENERS.three.to.slice(0, 2 * count) } });
    expect(walk('three', 3)).toBe('10 11 12');
    withDownstreams(1);
    expect(walk('three', 2)).toBe('10 10');
    withDownstreams(0);
    const { frame } = toListener(IPV4, 'three');
    expect(rig.run(frame)).toMatchObject({ moved: { three: { no_downstream: 1, pkts_dropped: 1 } } });
    withDownstreams(3);
    expect(walk('three', 4)).toBe('11 12 10 11');
  });
});
