/**
 * What the program cannot send itself goes to the safety net, whole, and arrives with its source: whatever the node's
 * rules, sysctls and routes are, and never back to where it came from.
 */
import { writeFileSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { type DualStack, dualStack } from '../../lab/dual-stack.ts';
import { fragments4, fragments6, udp4, udp6 } from '../../lab/frame.ts';
import type { Host, Pod } from '../../lab/host.ts';
import { CLIENT_MAC, NODE_MAC } from '../../lab/ip.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient } from '../../lab/patience.ts';
import { numberedPayload } from '../../lab/payload.ts';
import { type Receivers, receive, send } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { capture, inject } from '../../lab/wire.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle();
const noTracking = obstacle ?? lacking('nftables');
const NARROW = 1450;
/** As many of the largest as SAFETY_NET holds though nobody drains it, so that a busy machine loses none. */
const COUNT = 30;
const VIP = { 4: '10.99.0.7', 6: 'fd99::7' } as const;
const FAMILIES = [4, 6] as const;
type Family = (typeof FAMILIES)[number];
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function lab(narrow = false): DualStack {
  const built = dualStack({ vlan: false });
  cleanUps.push(() => built.close());
  if (narrow) {
    built.node.namespace.ip(built.pods.map(({ hostInterface }) => `link set ${hostInterface} mtu ${NARROW}`));
    for (const { namespace } of built.pods) namespace.ip([`link set eth0 mtu ${NARROW}`]);
  }
  return built;
}

async function started(node: Host, ...listeners: object[]): Promise<Agent> {
  const agent = startAgent(node, config(...(listeners as ReturnType<typeof listener>[])));
  cleanUps.push(() => agent.stop());
  await agent.waitFor(/attached TC eBPF program to ingress/);
  return agent;
}

async function receivers(pods: readonly (Host | Pod)[], port?: number): Promise<Receivers> {
  const opened = await receive(pods, port === undefined ? {} : { port });
  cleanUps.push(() => opened.close());
  return opened;
}

/** A listener of both families on the node, or on its VIPs. */
const both = ({ pods, pods6 }: DualStack, keys: object = {}) => ({
  ...listener({ bind: '[::]:9000', interface: 'eth0', downstream: [...pods, ...pods6] }),
  ...keys,
});
const atVips = ({ pods, pods6 }: DualStack) => [
  listener({ name: 'vip4', bind: `${VIP[4]}:9000`, interface: 'eth0', downstream: pods }),
  listener({ name: 'vip6', bind: `[${VIP[6]}]:9000`, interface: 'eth0', downstream: pods6 }),
];

const nft = (node: Host, rules: string) => node.namespace.run('nft', [rules]);
const MASQUERADE = `table inet flannel {
  chain seen { type filter hook prerouting priority 0; ct state new counter; }
  chain post { type nat hook postrouting priority 100; ip daddr 10.0.1.0/24 masquerade; ip6 daddr fd01::/64 masquerade; }
}`;
const FILTER = `table inet firewall {
  chain input { type filter hook input priority 0; meta l4proto udp drop; }
  chain forward { type filter hook forward priority 0; drop; }
}`;
const NODES: readonly (readonly [string, (built: DualStack) => void])[] = [
  ['as it is', () => {}],
  ['that tracks connections and masquerades', ({ node }) => nft(node, MASQUERADE)],
  ['whose packet filter lets nothing in or through', ({ node }) => nft(node, FILTER)],
  [
    'that does not forward',
    ({ node }) => node.namespace.sysctl({ 'net/ipv4/ip_forward': 0, 'net/ipv6/conf/all/forwarding': 0 }),
  ],
  [
    'with strict source validation, from a source that is routed elsewhere',
    ({ node }) => {
      node.namespace.sysctl({ 'net/ipv4/conf/all/rp_filter': 1, 'net/ipv4/conf/eth0/rp_filter': 1 });
      node.namespace.ip(['link add aside type bridge', 'link set aside up', 'route add 192.0.2.0/24 dev aside']);
    },
  ],
];

describe.skipIf(noTracking)(titled('what is too large for the way to its downstream', noTracking), () => {
  test.each(NODES.flatMap(([name, prepare]) => FAMILIES.map((family) => ({ name, prepare, family }))))(
    'IPv$family, a node $name',
    async ({ prepare, family }) => {
      const built = lab(true);
      const { client, node, pods, pods6 } = built;
      prepare(built);
      const agent = await started(node, both(built));
      const at = await receivers(family === 4 ? pods : pods6);
      const to = family === 4 ? '10.0.0.1:9000' : '[fd00::1]:9000';
      const from = family === 4 ? '192.0.2.9:40000' : '[fd00::9]:40000';
      const headers = family === 4 ? 28 : 48;
      // The largest that fits, one byte more, what the client's own MTU takes, fragments of all sizes.
      const sizes = [NARROW - headers, NARROW - headers + 1, 1500 - headers, 1600, 4000, 60_000];
      for (const size of sizes) {
        const sent = await send(client, {
          to,
          from,
          count: COUNT,
          size,
          rate: 2000,
          cpu: 0,
          dontFragment: size + headers <= 1500,
        });
        const report = await at.report({ expect: COUNT });
        expect(union(report, sent), `${size} bytes`).toEqual({ received: COUNT, missing: [], duplicated: [] });
        expect(report.payloadErrors).toBe(0);
        expect(report.errors).toEqual({ InErrors: 0, InCsumErrors: 0, RcvbufErrors: 0, NoPorts: 0 });
        for (const { count, sources } of report.receivers) {
          expect(Math.abs(count - COUNT / 3)).toBeLessThanOrEqual(1);
          expect(sources).toEqual({ [from]: count });
        }
      }
      const books = await ledger(agent, 'test', COUNT * sizes.length);
      expect(books).toMatchObject({ forwarded: COUNT * sizes.length, dropped: {} });
      expect(books.toSafetyNet).toEqual({ mtu_exceeded: COUNT * (sizes.length - 1) });
    },
    60_000,
  );

  test.each(FAMILIES)('IPv%i, pmtu: report: the sender hears of it and fragments from then on', async (family) => {
    const built = lab(true);
    const { client, node, pods, pods6 } = built;
    const agent = await started(node, both(built, { pmtu: 'report' }));
    const at = await receivers(family === 4 ? pods : pods6);
    const size = 1500 - (family === 4 ? 28 : 48);
    const to = family === 4 ? '10.0.0.1:9000' : '[fd00::1]:9000';
    const sent = await send(client, { to, count: 60, size, rate: 100, cpu: 0 });
    const { received, duplicated } = union(await at.report({ expect: 50 }), sent);
    const books = await ledger(agent, 'test', 60);
    expect(duplicated).toEqual([]);
    // The first one tells; those behind it that had left by then are lost, too, and named.
    expect(books.dropped).toEqual({ mtu_exceeded: 60 - received });
    expect(received).toBeGreaterThan(30);
    expect(received).toBeLessThan(60);
    expect(books.forwarded).toBe(received);
    expect(client.namespace.run('ip', ['route', 'get', family === 4 ? '10.0.0.1' : 'fd00::1'])).toContain(
      `mtu ${NARROW}`,
    );
  });
});

/** Frames of numbered datagrams to a VIP that is on no interface, each a few frames. */
function odd(family: 4 | 6): readonly (readonly [string, (sequence: number) => readonly Buffer[]])[] {
  const ends = family === 4 ? { src: '10.0.0.9', dst: VIP[4] } : { src: 'fd00::9', dst: VIP[6] };
  const fields = (sequence: number, size: number) => ({
    ...{ smac: CLIENT_MAC, dmac: NODE_MAC, sport: 40000, dport: 9000, id: sequence + 1 },
    ...ends,
    payload: numberedPayload({ stream: 1, sequence }, size),
  });
  const whole = (sequence: number, more: object) =>
    family === 4 ? udp4({ ...fields(sequence, 64), ...more }) : udp6({ ...fields(sequence, 64), ...more });
  const cut = (sequence: number, size: number) =>
    family === 4 ? fragments4(fields(sequence, size)) : fragments6(fields(sequence, size), 1500, sequence + 1);
  const options = family === 4 ? { ihlWords: 6 } : { extensions: [{ type: 'hop-by-hop' }] };
  return [
    ['options', (sequence) => [whole(sequence, options)]],
    ['a TTL at its end', (sequence) => [whole(sequence, { ttl: 1 })]],
    ['a broadcast frame', (sequence) => [whole(sequence, { dmac: 'ff:ff:ff:ff:ff:ff' })]],
    ['a priority tag', (sequence) => [whole(sequence, { vlan: 0 })]],
    ['fragments in their order', (sequence) => cut(sequence, 20_000)],
    ['fragments from the last to the first', (sequence) => cut(sequence, 20_000).reverse()],
    ['the first fragment in the middle', (sequence) => swapped(cut(sequence, 20_000))],
    ['60 KB from the last to the first', (sequence) => cut(sequence, 60_000).reverse()],
  ];
}

function swapped([first, ...rest]: readonly Buffer[]): Buffer[] {
  return [...rest.slice(0, 5), first!, ...rest.slice(5)];
}

describe.skipIf(obstacle)(titled('a VIP that is on no interface', obstacle), () => {
  test.each(FAMILIES.flatMap((family) => odd(family).map(([name, frames]) => ({ family, name, frames }))))(
    'IPv$family: $name: all arrive, and nothing goes back',
    async ({ family, frames }) => {
      const built = lab();
      const { client, node, pods, pods6 } = built;
      const agent = await started(node, ...atVips(built));
      const at = await receivers(family === 4 ? pods : pods6);
      using back = capture(node.namespace, 'eth0', ({ ip }) => ip?.dst === VIP[family] || ip?.protocol === 17);
      using arriving = capture(pods[0]!.namespace, 'eth0', ({ ip }) => ip?.protocol === 17);
      for (let sequence = 0; sequence < 30; sequence++) inject(client.namespace, 'eth0', frames(sequence), 0);
      const report = await at.report({ expect: 30 });
      expect(report.count).toBe(30);
      expect(report.payloadErrors).toBe(0);
      expect(report.receivers.map(({ count }) => count)).toEqual([10, 10, 10]);
      const from = family === 4 ? '10.0.0.9:40000' : '[fd00::9]:40000';
      for (const { sources } of report.receivers) expect(sources).toEqual({ [from]: 10 });
      expect((await back.frames()).filter(({ direction }) => direction === 'out')).toEqual([]);
      expect((await arriving.frames()).some(({ vlan }) => vlan !== undefined)).toBe(false);
      expect(await ledger(agent, `vip${family}`, 30)).toMatchObject({ forwarded: 30, dropped: {} });
    },
  );

  test('no route: dropped by name, and nothing goes back', async () => {
    const built = lab();
    const { client, node } = built;
    const nowhere = listener({ bind: `${VIP[4]}:9000`, interface: 'eth0', downstream: ['198.51.100.1:9000'] });
    node.namespace.ip(['route del default'].filter(() => false));
    const agent = await started(node, nowhere);
    using back = capture(node.namespace, 'eth0', ({ ip }) => ip?.protocol === 17);
    client.namespace.ip([`route add ${VIP[4]}/32 via 10.0.0.1`]);
    await send(client, { to: `${VIP[4]}:9000`, count: 20 });
    expect(await ledger(agent, 'test', 20)).toMatchObject({ forwarded: 0, dropped: { no_route: 20 } });
    expect((await back.frames()).filter(({ direction }) => direction === 'out')).toEqual([]);
  });
});

describe.skipIf(obstacle)(titled('downstreams that only a socket of this host reaches', obstacle), () => {
  test('loopback addresses: each datagram once, with its source', async () => {
    const built = lab();
    const { client, node } = built;
    const agent = await started(
      node,
      listener({
        name: 'four',
        bind: '0.0.0.0:9000',
        interface: 'eth0',
        downstream: ['127.0.0.1:10001', '127.0.0.1:10002'],
      }),
      listener({ name: 'six', bind: '[fd00::1]:9006', interface: 'eth0', downstream: ['[::1]:10003'] }),
    );
    const ports = [10001, 10002, 10003];
    const open = await Promise.all(
      ports.map((port) => receivers([port === 10003 ? { ...node, ip: 'fd00::1' } : node], port)),
    );
    await send(client, { to: '10.0.0.1:9000', from: '10.0.0.9:40000', count: 40, cpu: 0 });
    await send(client, { to: '[fd00::1]:9006', from: '[fd00::9]:40000', count: 40, cpu: 0 });
    const reports = await Promise.all(open.map((one, at) => one.report({ expect: [20, 20, 40][at]! })));
    expect(reports.map(({ receivers: [one] }) => one!.sources)).toEqual([
      { '10.0.0.9:40000': 20 },
      { '10.0.0.9:40000': 20 },
      { '[fd00::9]:40000': 40 },
    ]);
    expect(await ledger(agent, 'four', 40)).toMatchObject({ forwarded: 40, toSafetyNet: { loopback: 40 } });
    expect(await ledger(agent, 'six', 40)).toMatchObject({ forwarded: 40, toSafetyNet: { loopback: 40 } });
  });
});

/** The fragments of a datagram for the node. */
function parts(family: Family): Buffer[] {
  const ends = family === 4 ? { src: '10.0.0.9', dst: '10.0.0.1' } : { src: 'fd00::9', dst: 'fd00::1' };
  const payload = numberedPayload({ stream: 1, sequence: 0 }, 4000);
  const fields = { smac: CLIENT_MAC, dmac: NODE_MAC, sport: 40000, dport: 9000, id: 7, ...ends, payload };
  return family === 4 ? fragments4(fields) : fragments6(fields, 1500, 7);
}

describe.skipIf(obstacle)(titled('a datagram in three fragments whose rest is lost', obstacle), () => {
  const to = (pod: Pod) => config(listener({ bind: '[::]:9000', interface: 'eth0', downstream: [pod] }));
  const removed = async (_: DualStack, agent: Agent, [, next]: readonly Pod[]) => {
    writeFileSync(agent.configFile, JSON.stringify(to(next!)));
    agent.kill('SIGHUP');
    const label = `udp_fanout_downstream_packets_total{listener="test",endpoint="${next!.address}"}`;
    await expect.poll(async () => (await agent.metrics()).has(label), { timeout: patient(2000) }).toBe(true);
  };
  const silent = async ({ node }: DualStack, _: Agent, [pod]: readonly Pod[]) => {
    pod!.namespace.sysctl({ 'net/ipv4/conf/eth0/arp_ignore': 8 });
    if (pod!.ip.includes(':')) {
      pod!.namespace.ip([`addr add ${pod!.ip}/128 dev lo`, `addr del ${pod!.ip}/128 dev eth0`]);
    }
    node.namespace.ip([`neigh flush dev ${pod!.hostInterface}`]);
  };

  test.each(
    FAMILIES.flatMap((family) => [
      { family, name: 'its downstream is removed', reason: 'downstream_gone', meanwhile: removed },
      { family, name: 'its neighbour falls silent', reason: 'neigh_unresolved', meanwhile: silent },
    ]),
  )(
    'IPv$family, $name: received once, forwarded, and torn by that name',
    async ({ family, reason, meanwhile }) => {
      const built = lab();
      const { client, node } = built;
      const pods = family === 4 ? built.pods : built.pods6;
      const agent = startAgent(node, to(pods[0]!));
      cleanUps.push(() => agent.stop());
      await agent.waitFor(/attached TC eBPF program to ingress/);
      const at = await receivers(pods);
      // So that the pod need not be asked for.
      await send(client, { to: family === 4 ? '10.0.0.1:9000' : '[fd00::1]:9000', count: 1 });
      await at.report({ expect: 1 });
      const [first, ...rest] = parts(family);
      inject(client.namespace, 'eth0', [first!]);
      await meanwhile(built, agent, pods);
      inject(client.namespace, 'eth0', rest);
      const torn = async () => (await ledger(agent, 'test', 2)).torn;
      await expect.poll(torn, { timeout: patient(6000) }).toEqual({ [reason]: 1 });
      expect(await ledger(agent, 'test', 2)).toMatchObject({ forwarded: 2, dropped: {} });
      expect((await at.report({ quiet: 100 })).count).toBe(0);
    },
    60_000,
  );
});

describe.skipIf(obstacle)(titled('the program on lo', obstacle), () => {
  test('is there while the agent runs, comes back if somebody removes it, and goes with detach', async () => {
    const built = lab(true);
    const { client, node, pods } = built;
    const onLo = () => node.namespace.run('tc', ['filter', 'show', 'dev', 'lo', 'egress']);
    const agent = await started(node, both(built));
    expect(onLo()).toContain('udp_fanout_out');
    node.namespace.run('tc', ['qdisc', 'del', 'dev', 'lo', 'clsact']);
    const at = await receivers(pods);
    const sent = await send(client, { to: '10.0.0.1:9000', count: 60, size: 1460, rate: 500, dontFragment: true });
    expect(union(await at.report({ expect: 60 }), sent)).toMatchObject({ received: 60, missing: [] });
    await expect.poll(onLo, { timeout: 5000 }).toContain('udp_fanout_out');
    await agent.stop();
    node.namespace.run(process.execPath, ['dist/udp-fanout.js', 'detach']);
    expect(onLo()).toBe('');
  });
});
