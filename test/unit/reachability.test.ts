/** Ways to addresses, against a host that keeps state: what is looked at, how much of it at once, and what follows. */
import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { encodeIp, type IpAddress } from '../../agent/address.ts';
import type { Link } from '../../agent/netlink/link.ts';
import { attribute, encodeMessage, joined, u32 } from '../../agent/netlink/message.ts';
import { decodeNeighbour, type Neighbour, type Station } from '../../agent/netlink/neighbour.ts';
import { type Notice, watchNotices } from '../../agent/netlink/notices.ts';
import type { Route } from '../../agent/netlink/route.ts';
import { PrefixIndex } from '../../agent/reachability/prefix-index.ts';
import { Reachability } from '../../agent/reachability/reachability.ts';
import { aLink } from '../fake/words.ts';

const v4 = (ip: string): IpAddress => ({ family: 4, ip });
const prefix = (ip: string, length: number) => {
  const family = ip.includes(':') ? (6 as const) : (4 as const);
  return { family, bytes: encodeIp({ family, ip }), length };
};

/** A host with a veth for each pod, and a default way out by eth0 and a router. */
class FakeHost {
  readonly links = new Map<number, Link>([[2, aLink({ index: 2, name: 'eth0' })]]);
  readonly routes = new Map<string, Route | string>();
  readonly neighbours = new Map<string, Neighbour>();
  readonly stations = new Map<string, Station>();
  byArrival = false;
  several = false;
  looks = 0;

  pod(index: number, ip: string): void {
    this.links.set(index, aLink({ index, name: `veth${index}` }));
    this.routes.set(ip, { ifindex: index, local: false });
    this.resolve(index, ip);
  }

  resolve(ifindex: number, ip: string, unresolved = false, mac = '02:00:00:00:01:0a'): void {
    this.neighbours.set(`${ifindex} ${ip}`, { family: 4, ip, ifindex, unresolved, failed: unresolved, mac });
  }

  readonly host = {
    way: ({ ip }: IpAddress) => {
      this.looks++;
      return this.routes.get(ip) ?? 'no route';
    },
    isOneOfSeveral: () => this.several,
    routesByArrival: () => this.byArrival,
    link: (index: number) => {
      this.looks++;
      return this.links.get(index);
    },
    neighbour: (ifindex: number, { ip }: IpAddress) => this.neighbours.get(`${ifindex} ${ip}`),
    station: (_: number, mac: string) => this.stations.get(mac),
  };
}

function rig() {
  const fake = new FakeHost();
  const world = { now: 0, changed: [] as string[], moved: 0, asked: [] as string[] };
  const reachability = new Reachability({
    host: fake.host,
    now: () => world.now,
    ask: ({ address }) => world.asked.push(address.ip),
  });
  reachability.tell({ onChange: (ip) => world.changed.push(ip), onMoved: () => world.moved++ });
  const drain = (times = 1) => {
    for (let drains = 0; drains < times; drains++) {
      world.now += 100;
      reachability.drained();
    }
  };
  const neighbour = (ifindex: number, ip: string) =>
    reachability.notice({ kind: 'neighbour', neighbour: fake.neighbours.get(`${ifindex} ${ip}`)! });
  return { fake, world, reachability, drain, neighbour };
}

describe('an address', () => {
  test('the station of a host on the link is known as soon as it is asked for and resolved, and that is news', () => {
    const { fake, reachability, world, drain, neighbour } = rig();
    fake.routes.set('10.0.0.11', { ifindex: 2, local: false });
    fake.routes.set('10.1.1.10', { ifindex: 2, gateway: v4('10.0.0.11'), local: false });
    for (const ip of ['10.0.0.11', '10.1.1.10']) reachability.follow(v4(ip));
    const onLink = (ip: string) => reachability.onLink(v4(ip));
    expect([onLink('10.0.0.11'), onLink('10.1.1.10'), onLink('10.9.9.9')]).toEqual([undefined, undefined, undefined]);
    drain();
    expect(world.asked).toEqual(['10.0.0.11']);
    fake.resolve(2, '10.0.0.11');
    neighbour(2, '10.0.0.11');
    drain();
    expect([onLink('10.0.0.11'), world.moved]).toEqual([{ ifindex: 2, mac: '02:00:00:00:01:0a' }, 1]);
    expect(onLink('10.1.1.10')).toBeUndefined();
  });

  test('the router on the way is known, and a new one is news', () => {
    const { fake, reachability, world, drain } = rig();
    const via = (gateway: string) => ({ ifindex: 2, gateway: v4(gateway), local: false });
    fake.resolve(2, '10.0.0.11');
    fake.resolve(2, '10.0.0.12');
    fake.routes.set('10.1.1.10', via('10.0.0.11'));
    fake.pod(10, '10.0.1.10');
    for (const ip of ['10.1.1.10', '10.0.1.10', '10.9.9.9']) reachability.follow(v4(ip));
    const gateways = () => ['10.1.1.10', '10.0.1.10', '10.9.9.9', '10.8.8.8'].map((ip) => reachability.gateway(v4(ip)));
    expect(gateways()).toEqual(['10.0.0.11', undefined, undefined, undefined]);
    drain();
    // Whoever follows an address has asked by then.
    expect(world.moved).toBe(0);
    const { gatewaysVersion } = reachability;
    fake.routes.set('10.1.1.10', via('10.0.0.12'));
    reachability.notice({ kind: 'route', prefix: prefix('10.1.1.0', 24) });
    drain();
    expect([gateways()[0], world.moved]).toEqual(['10.0.0.12', 1]);
    expect(reachability.gatewaysVersion).not.toBe(gatewaysVersion);
    fake.routes.set('10.1.1.10', { ifindex: 2, gateway: { family: 6, ip: 'fe80::1' }, local: false });
    reachability.notice({ kind: 'everything' });
    drain();
    expect(gateways()[0]).toBeUndefined();
  });

  test('is known as soon as it is followed, and told when that changes', () => {
    const { fake, reachability, world, drain } = rig();
    fake.pod(10, '10.0.1.10');
    reachability.follow(v4('10.0.1.10'));
    reachability.follow(v4('10.0.1.11'));
    expect([reachability.lost('10.0.1.10'), reachability.lost('10.0.1.11')]).toEqual([undefined, 'no route']);
    drain();
    expect(world.changed).toEqual([]);
    fake.pod(11, '10.0.1.11');
    reachability.notice({ kind: 'route', prefix: prefix('10.0.1.0', 24) });
    drain();
    expect(world.changed).toEqual(['10.0.1.11']);
    expect(reachability.lost('10.0.1.11')).toBeUndefined();
  });

  test.each([
    ['gone', undefined, 'link is gone'],
    ['down', aLink({ index: 10, name: 'veth10', up: false }), 'link veth10 is down'],
    ['without carrier', aLink({ index: 10, name: 'veth10', carrier: false }), 'link veth10 has no carrier'],
  ])('is lost while its link is %s', (_, link, cause) => {
    const { fake, reachability, drain } = rig();
    fake.pod(10, '10.0.1.10');
    reachability.follow(v4('10.0.1.10'));
    const before = fake.links.get(10)!;
    if (link) fake.links.set(10, link);
    else fake.links.delete(10);
    reachability.notice({ kind: 'link', ifindex: 10 });
    drain();
    expect(reachability.lost('10.0.1.10')).toBe(cause);
    fake.links.set(10, before);
    reachability.notice({ kind: 'link', ifindex: 10 });
    drain();
    expect(reachability.lost('10.0.1.10')).toBeUndefined();
  });

  test('behind a bridge is lost with its port, though the bridge forgets which one it was', () => {
    const { fake, reachability, drain } = rig();
    fake.pod(5, '10.0.1.10');
    fake.links.set(5, aLink({ index: 5, name: 'cni0', kind: 'bridge' }));
    fake.links.set(20, aLink({ index: 20, name: 'veth20' }));
    const station = { bridge: 5, port: 20, mac: '02:00:00:00:01:0a' };
    fake.stations.set(station.mac, station);
    reachability.follow(v4('10.0.1.10'));
    fake.stations.clear();
    reachability.notice({ kind: 'station', station });
    drain();
    expect(reachability.lost('10.0.1.10'), 'merely forgotten').toBeUndefined();
    fake.links.set(20, aLink({ index: 20, name: 'veth20', carrier: false }));
    reachability.notice({ kind: 'link', ifindex: 20 });
    drain();
    expect(reachability.lost('10.0.1.10')).toBe('link veth20 has no carrier');
    // It is at another port now.
    fake.links.set(21, aLink({ index: 21, name: 'veth21' }));
    fake.stations.set(station.mac, { ...station, port: 21 });
    reachability.notice({ kind: 'station', station });
    drain();
    expect(reachability.lost('10.0.1.10')).toBeUndefined();
  });

  test('by several hops, or by rules of arrival, is not lost by what is seen of one', () => {
    for (const key of ['several', 'byArrival'] as const) {
      const { fake, reachability, drain } = rig();
      fake[key] = true;
      fake.pod(10, '10.0.1.10');
      fake.links.set(10, aLink({ index: 10, carrier: false }));
      reachability.follow(v4('10.0.1.10'));
      drain();
      expect(reachability.lost('10.0.1.10'), key).toBeUndefined();
    }
  });

  test('whose way leads elsewhere is told apart', () => {
    const { fake, reachability, world, drain } = rig();
    fake.pod(10, '10.0.1.10');
    reachability.follow(v4('10.0.1.10'));
    drain();
    expect(world.moved).toBe(0);
    fake.routes.set('10.0.1.10', { ifindex: 2, gateway: v4('10.0.0.254'), local: false });
    reachability.notice({ kind: 'route', prefix: prefix('10.0.1.10', 32) });
    drain();
    expect(world).toMatchObject({ moved: 1, changed: [] });
  });
});

describe('a neighbour', () => {
  test('that is resolved, or not any more, is news to who goes by that, and to nobody else', () => {
    const { fake, reachability, world, drain, neighbour } = rig();
    const turn = (unresolved: boolean) => {
      fake.resolve(10, '10.0.1.10', unresolved);
      neighbour(10, '10.0.1.10');
      drain();
      return world.moved;
    };
    fake.pod(10, '10.0.1.10');
    reachability.follow(v4('10.0.1.10'));
    expect([turn(true), turn(false)]).toEqual([0, 0]);
    const isResolved = () => reachability.isResolved(v4('10.0.1.10'));
    expect([isResolved(), reachability.isResolved(v4('10.9.9.9'))]).toEqual([true, true]);
    expect([turn(true), isResolved(), turn(true), turn(false), isResolved()]).toEqual([1, false, 1, 2, true]);
  });

  test('that fails is asked, and lost only if it has not answered for a second', () => {
    const { fake, reachability, world, drain, neighbour } = rig();
    fake.pod(10, '10.0.1.10');
    reachability.follow(v4('10.0.1.10'));
    fake.resolve(10, '10.0.1.10', true);
    neighbour(10, '10.0.1.10');
    drain();
    expect(world.asked).toEqual(['10.0.1.10']);
    drain(9);
    expect(reachability.lost('10.0.1.10')).toBeUndefined();
    drain(1);
    expect(reachability.lost('10.0.1.10')).toBe('neighbour 10.0.1.10 does not answer');
    // Asked ever more rarely.
    world.asked.length = 0;
    drain(600);
    expect(world.asked.length).toBeGreaterThanOrEqual(6);
    expect(world.asked.length).toBeLessThanOrEqual(12);
    fake.resolve(10, '10.0.1.10');
    neighbour(10, '10.0.1.10');
    drain();
    expect(reachability.lost('10.0.1.10')).toBeUndefined();
  });

  test('that answers in between is never lost, however often it fails', () => {
    const { fake, reachability, world, drain, neighbour } = rig();
    fake.pod(10, '10.0.1.10');
    reachability.follow(v4('10.0.1.10'));
    for (let round = 0; round < 50; round++) {
      fake.resolve(10, '10.0.1.10');
      neighbour(10, '10.0.1.10');
      fake.resolve(10, '10.0.1.10', true);
      neighbour(10, '10.0.1.10');
      drain();
    }
    expect(world.changed).toEqual([]);
  });

  test('that there is none of, and that cannot be asked, says nothing', () => {
    const { fake, reachability, world, drain } = rig();
    fake.pod(10, '10.0.1.10');
    fake.neighbours.clear();
    reachability.follow(v4('10.0.1.10'));
    drain(50);
    expect(world.asked).toHaveLength(1);
    expect(reachability.lost('10.0.1.10')).toBeUndefined();
  });

  test('that is a router takes those behind it along, and is asked once for all of them', () => {
    const { fake, reachability, world, drain } = rig();
    const ips = Array.from({ length: 50 }, (_, index) => `10.0.2.${index}`);
    for (const ip of ips) fake.routes.set(ip, { ifindex: 2, gateway: v4('10.0.0.254'), local: false });
    fake.resolve(2, '10.0.0.254', true);
    for (const ip of ips) reachability.follow(v4(ip));
    drain(11);
    expect(world.asked).toEqual(['10.0.0.254', '10.0.0.254']);
    expect(new Set(ips.map((ip) => reachability.lost(ip)))).toEqual(new Set(['neighbour 10.0.0.254 does not answer']));
  });

  test('is not asked with a thousand others at once', () => {
    const { fake, reachability, world, drain } = rig();
    for (let index = 0; index < 200; index++) {
      fake.pod(10 + index, `10.0.1.${index}`);
      fake.resolve(10 + index, `10.0.1.${index}`, true);
      reachability.follow(v4(`10.0.1.${index}`));
    }
    drain();
    expect(world.asked).toHaveLength(10);
    drain(9);
    expect(new Set(world.asked).size).toBeGreaterThanOrEqual(50);
    expect(world.asked.length).toBeLessThanOrEqual(100);
  });
});

test('a storm of routes costs so many looks and no more, and what is named is looked at first', () => {
  const { fake, reachability, drain } = rig();
  for (let index = 0; index < 4000; index++) {
    const ip = `10.${index >> 8}.${index & 255}.1`;
    fake.pod(10 + index, ip);
    reachability.follow(v4(ip));
  }
  drain(100);
  fake.looks = 0;
  reachability.notice({ kind: 'everything' });
  fake.routes.set('10.15.1.1', 'blackhole route');
  reachability.notice({ kind: 'route', prefix: prefix('10.15.1.1', 32) });
  drain();
  expect(reachability.lost('10.15.1.1')).toBe('blackhole route');
  expect(fake.looks).toBeLessThanOrEqual(510);
  // The last of them has its turn in the middle of the storm too.
  fake.routes.set('10.15.159.1', 'no route');
  for (let at = 0; at < 90; at++) {
    reachability.notice({ kind: 'everything' });
    drain();
  }
  expect(reachability.lost('10.15.159.1')).toBe('no route');
  expect(fake.looks).toBeLessThanOrEqual(510 + 90 * 110);
});

test('a prefix holds the addresses that lie in it, of its own family', () => {
  const index = new PrefixIndex();
  const ips = ['10.0.1.10', '10.0.1.11', '10.0.2.10', '192.168.0.1', 'fd00::10', 'fd00:0:0:1::10'];
  for (const ip of ips) index.add({ family: ip.includes(':') ? 6 : 4, ip });
  const within = (ip: string, length: number) => index.within(prefix(ip, length));
  expect(within('10.0.1.0', 24)).toEqual(['10.0.1.10', '10.0.1.11']);
  expect(within('10.0.1.11', 32)).toEqual(['10.0.1.11']);
  expect(within('10.0.1.8', 31)).toEqual([]);
  expect(within('0.0.0.0', 0)).toEqual(ips.slice(0, 4));
  expect(within('fd00::', 64)).toEqual(['fd00::10']);
  expect(within('::', 0)).toEqual(['fd00::10', 'fd00:0:0:1::10']);
  index.delete('10.0.1.10');
  expect(within('10.0.0.0', 15)).toEqual(['10.0.1.11', '10.0.2.10']);
});

describe('notices', () => {
  const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');
  const message = (type: number, payload: Uint8Array) => encodeMessage({ type, flags: 0, sequence: 0, payload });
  /** struct ndmsg: family, index of the interface, state; then NDA_DST, NDA_LLADDR. */
  const entry = (af: string, state: string, ...attributes: Uint8Array[]) =>
    joined(hex(`${af} 000000 07000000 ${state} 00 01`), ...attributes);
  const FAILED = '2000';
  const STALE = '0400';

  function start(queue: (Uint8Array | number)[]) {
    const world = { groups: [] as readonly number[], closed: 0, tick: () => {}, drained: 0 };
    const open = (groups: readonly number[]) => {
      world.groups = groups;
      const receive = (buffer: Uint8Array) => {
        const next = queue.shift() ?? -constants.errno.EAGAIN;
        if (typeof next === 'number') return next;
        buffer.set(next);
        return next.length;
      };
      return { send: () => 0, receive, close: () => void world.closed++ };
    };
    const ticker = (_: number, tick: () => void) => {
      world.tick = tick;
      return () => {};
    };
    const notices: Notice[] = [];
    const onNotice = (notice: Notice) => notices.push(notice);
    const watch = watchNotices({ onNotice, onDrained: () => void world.drained++ }, { open, ticker });
    return { world, notices, watch };
  }

  test('tell of links, neighbours, stations and routes, each by what it is about', () => {
    const { world, notices, watch } = start([
      message(16, hex('00 00 0100 05000000 01000000 00000000')),
      message(28, entry('02', STALE, attribute(1, hex('0a00010a')), attribute(2, hex('02000000010a')))),
      message(29, entry('02', FAILED, attribute(1, hex('0a00010b')))),
      message(28, entry('07', STALE, attribute(2, hex('02000000010a')), attribute(9, u32(5)))),
      message(28, entry('07', STALE, attribute(2, hex('02000000010a')))),
      message(24, joined(hex('02 18 00 00 fe 04 00 01 00000000'), attribute(1, hex('0a000100')))),
      message(25, hex('0a 00 00 00 fe 04 00 01 00000000')),
    ]);
    world.tick();
    expect(notices).toEqual([
      { kind: 'link', ifindex: 5 },
      { kind: 'neighbour', neighbour: expect.objectContaining({ ip: '10.0.1.10', unresolved: false, ifindex: 7 }) },
      { kind: 'neighbour', neighbour: expect.objectContaining({ ip: '10.0.1.11', unresolved: true, mac: '' }) },
      { kind: 'station', station: { bridge: 5, port: 7, mac: '02:00:00:00:01:0a' } },
      { kind: 'route', prefix: { family: 4, bytes: new Uint8Array([10, 0, 1, 0]), length: 24 } },
      { kind: 'route', prefix: { family: 6, bytes: new Uint8Array(16), length: 0 } },
    ]);
    expect(world.drained).toBe(1);
    watch.close();
    expect(world.closed).toBe(1);
  });

  test.each([
    ['there were more than fitted', [-constants.errno.ENOBUFS]],
    ['there are more than are read', new Array(300).fill(message(25, hex('0a 00 00 00 fe 04 00 01 00000000')))],
    ['rules have changed', [message(32, hex('02 00 00 00 fe 00 00 01 00000000'))]],
  ])('say that everything may have changed where %s', (_, queue) => {
    const { world, notices } = start([...queue]);
    world.tick();
    expect(notices.at(-1)).toEqual({ kind: 'everything' });
    expect(notices.length).toBeLessThanOrEqual(257);
  });

  test('of neighbours that are too short are refused', () => {
    expect(() => decodeNeighbour(hex('02'))).toThrow('payload of 1 bytes: want at least 12');
  });
});
