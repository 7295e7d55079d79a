/** Real datagrams through the real agent on the topologies of real clusters, by the kernel path and by userspace. */
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { loses } from '../../lab/books.ts';
import { calicoBgp } from '../../lab/calico-bgp.ts';
import type { Host, Pod, Topology } from '../../lab/host.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { metallbVip } from '../../lab/metallb-vip.ts';
import { type SingleNodeOptions, singleNode } from '../../lab/single-node.ts';
import { type Receivers, receive, type SendOptions, type Sent, send } from '../../lab/traffic.ts';
import { twoVips } from '../../lab/two-vips.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';
import { inMode, MODES, type Mode } from './modes.ts';

const obstacle = labObstacle();
const noOverlay = obstacle ?? lacking('vxlan');
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function built<T extends Topology>(topology: T): T {
  cleanUps.push(() => topology.close());
  return topology;
}

async function started(mode: Mode, node: Host, ...listeners: ReturnType<typeof listener>[]): Promise<Agent> {
  const agent = startAgent(node, config(...listeners.map((one) => inMode(mode, one))));
  cleanUps.push(() => agent.stop());
  await agent.waitFor(mode.ready);
  return agent;
}

async function receivers(pods: readonly (Host | Pod)[], port?: number): Promise<Receivers> {
  const opened = await receive(pods, port === undefined ? {} : { port });
  cleanUps.push(() => opened.close());
  return opened;
}

/** Sends from one address over one CPU and expects every datagram once, evenly, with its source and a TTL less one. */
async function expectEvenSpread(
  client: Host,
  pods: readonly Pod[],
  options: Omit<SendOptions, 'from'> & { count: number; source: string; ttl: number },
): Promise<Sent> {
  const { source, ttl, ...rest } = options;
  const at = await receivers(pods);
  const sent = await send(client, { cpu: 0, ...rest, from: source });
  const report = await at.report({ expect: options.count });
  expect(union(report, sent)).toEqual({ received: options.count, missing: [], duplicated: [] });
  expect(report.payloadErrors).toBe(0);
  expect(report.errors).toEqual({ InErrors: 0, InCsumErrors: 0, RcvbufErrors: 0, NoPorts: 0 });
  for (const receiver of report.receivers) {
    expect(Math.abs(receiver.count - sent.count / pods.length)).toBeLessThanOrEqual(1);
    expect(receiver.sources).toEqual({ [source]: receiver.count });
    expect(receiver.ttls).toEqual({ [ttl]: receiver.count });
  }
  return sent;
}

describe.skipIf(obstacle).each(MODES)(titled("$name: a single node, the guide's base", obstacle), (mode) => {
  const variants: [string, SingleNodeOptions][] = [
    ['routed pods', { wiring: 'routed' }],
    ['bridged pods', { wiring: 'bridged' }],
    ['checksums left to the hardware', { checksums: 'offloaded' }],
    ['checksums left to hardware that is not there on the way out', { checksums: 'offloaded', toPods: 'computed' }],
    ['ip_forward 0', { ipForward: 0 }],
    ['one pod', { pods: 1 }],
  ];
  // A socket sees neither wires nor checksums.
  const own = mode.name === 'tc_ebpf' ? variants : variants.slice(0, 1);

  test.each(own)('%s: each datagram to one pod, in turn, as it was sent', async (_, options) => {
    const { client, node, pods } = built(singleNode(options));
    const agent = await started(mode, node, listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods }));
    const source = '10.0.0.9:40000';
    const sent = await expectEvenSpread(client, pods, {
      to: '10.0.0.1:9000',
      count: 3000,
      source,
      ttl: 64 - mode.hop,
    });
    expect(sent.count).toBe(3000);
    expect(await ledger(agent, 'test', 3000)).toMatchObject({ forwarded: 3000, toSafetyNet: {}, dropped: {} });
  });

  test.each([16, 1472])('%i bytes of payload arrive whole', async (size) => {
    const { client, node, pods } = built(singleNode());
    await started(mode, node, listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods }));
    const source = '10.0.0.9:40000';
    await expectEvenSpread(client, pods, { to: '10.0.0.1:9000', count: 300, size, source, ttl: 64 - mode.hop });
  });

  test('fragments follow their first one', async () => {
    const { client, node, pods } = built(singleNode());
    const agent = await started(mode, node, listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods }));
    const source = '10.0.0.9:40000';
    const big = { to: '10.0.0.1:9000', count: 300, size: 4000, rate: 5000, source, ttl: 64 - mode.hop };
    await expectEvenSpread(client, pods, big);
    expect(await ledger(agent, 'test', 300)).toMatchObject({ forwarded: 300, toSafetyNet: {} });
  });

  test.each([
    ['the others get its share', 3, [0, 60, 60], '10.0.1.10:40000'],
    ['the only one gets it from the node’s address', 1, [120], '10.0.1.1'],
  ] as const)('a sender that is a downstream: %s', async (_, count, shares, source) => {
    const { node, pods } = built(singleNode({ wiring: 'bridged', pods: count }));
    const agent = await started(mode, node, listener({ bind: '0.0.0.0:9000', interface: 'cni0', downstream: pods }));
    const at = await receivers(pods);
    const sent = await send(pods[0]!, { to: '10.0.1.1:9000', from: '10.0.1.10:40000', count: 120, rate: 5000, cpu: 0 });
    const report = await at.report({ expect: 120 });
    expect(union(report, sent)).toEqual({ received: 120, missing: [], duplicated: [] });
    for (const [pod, receiver] of report.receivers.entries()) {
      expect(Math.abs(receiver.count - shares[pod]!)).toBeLessThanOrEqual(shares[pod] === 0 ? 0 : 2);
      expect(Object.keys(receiver.sources).every((from) => from.startsWith(source))).toBe(true);
    }
    expect(await ledger(agent, 'test', 120)).toMatchObject({ forwarded: 120, dropped: {} });
  });

  test('a packet that holds many datagrams is counted as many', async () => {
    const { client, node, pods } = built(singleNode({ checksums: 'offloaded' }));
    const agent = await started(mode, node, listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods }));
    const at = await receivers(pods);
    const sent = await send(client, { to: '10.0.0.1:9000', count: 1920, size: 200, segments: 32, cpu: 0 });
    const report = await at.report({ expect: sent.count });
    expect(union(report, sent)).toEqual({ received: 1920, missing: [], duplicated: [] });
    expect(await ledger(agent, 'test', 1920)).toMatchObject({ forwarded: 1920 });
  });

  test('what is not the listener’s reaches whom it is for', async () => {
    const { client, node, pods } = built(singleNode());
    const agent = await started(mode, node, listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods }));
    const atNode = await receivers([node], 9001);
    const otherPort = await send(client, { to: '10.0.0.1:9001', count: 100 });
    const nodeReport = await atNode.report({ expect: 100 });
    expect(union(nodeReport, otherPort)).toEqual({ received: 100, missing: [], duplicated: [] });
    // Transit: another node's choice, with the listener's own port, stays what it is.
    const atPods = await receivers(pods);
    const transit = await send(client, { to: pods[1]!.address, count: 100 });
    const report = await atPods.report({ expect: 100 });
    expect(union(report, transit)).toEqual({ received: 100, missing: [], duplicated: [] });
    expect(report.receivers.map(({ count }) => count)).toEqual([0, 100, 0]);
    expect(await ledger(agent, 'test', 0)).toMatchObject({ forwarded: 0 });
    // That is not for want of a listener.
    const own = await send(client, { to: '10.0.0.1:9000', count: 30, cpu: 0 });
    expect(union(await atPods.report({ expect: 30 }), own)).toMatchObject({ received: 30, missing: [] });
    expect(await ledger(agent, 'test', 30)).toMatchObject({ forwarded: 30 });
  });
});

describe.skipIf(noOverlay).each(MODES)(titled('$name: a MetalLB VIP, vxlan, 80 to 8080', noOverlay), (mode) => {
  test.each([1, 0] as const)('ip_forward %i: pods here and behind the vxlan get their share', async (ipForward) => {
    const { client, vm2, vip, pods } = built(metallbVip({ ipForward }));
    mode.takeVip(vm2, vip.ip);
    const agent = await started(mode, vm2, listener({ bind: vip.address, interface: 'ens3.100', downstream: pods }));
    const at = await receivers(pods);
    const source = `${client.ip}:40000`;
    const sent = await send(client, { to: vip.address, from: source, count: 3000, cpu: 0, rate: 20_000 });
    const report = await at.report({ expect: sent.count });
    expect(union(report, sent)).toEqual({ received: 3000, missing: [], duplicated: [] });
    expect(report.errors).toEqual({ InErrors: 0, InCsumErrors: 0, RcvbufErrors: 0, NoPorts: 0 });
    for (const receiver of report.receivers) {
      expect(Math.abs(receiver.count - 1000)).toBeLessThanOrEqual(1);
      expect(receiver.sources).toEqual({ [source]: receiver.count });
    }
    expect(await ledger(agent, 'test', 3000)).toMatchObject({ forwarded: 3000, toSafetyNet: {} });
  });
});

describe.skipIf(noOverlay).each(MODES)(titled('$name: two VIPs with one port', noOverlay), (mode) => {
  test('each goes to its own pods, and neither takes what is for the node or for nobody', async () => {
    loses('what is for nobody is lost', { atMost: 100 });
    const { client, vm2, first, second, unrelated } = built(twoVips());
    for (const { ip } of [first, second]) mode.takeVip(vm2, ip);
    const atNode = await receivers([vm2], 80);
    const agent = await started(
      mode,
      vm2,
      listener({ name: 'first', bind: first.address, interface: 'ens3.100', downstream: first.pods }),
      listener({ name: 'second', bind: second.address, interface: 'ens3.100', downstream: second.pods }),
    );
    const at = await receivers([...first.pods, ...second.pods]);
    const toFirst = await send(client, { to: first.address, count: 1000, cpu: 0 });
    const toSecond = await send(client, { to: second.address, count: 500, cpu: 0 });
    const toNode = await send(client, { to: `${vm2.ip}:80`, count: 200 });
    await send(client, { to: `${unrelated}:80`, count: 100 });
    const report = await at.report({ expect: 1500 });
    expect(report.receivers.map(({ count }) => count)).toEqual([500, 500, 500]);
    expect(union(report, toFirst)).toMatchObject({ received: 1000, missing: [], duplicated: [] });
    expect(union(report, toSecond)).toMatchObject({ received: 500, missing: [], duplicated: [] });
    expect(union(await atNode.report({ expect: 200 }), toNode)).toMatchObject({ received: 200, missing: [] });
    expect(await ledger(agent, 'first', 1000)).toMatchObject({ forwarded: 1000 });
    expect(await ledger(agent, 'second', 500)).toMatchObject({ forwarded: 500 });
  });
});

describe.skipIf(obstacle).each(MODES)(
  titled('$name: Calico and BGP, IPv6 over two nodes without encapsulation', obstacle),
  (mode) => {
    test.each(['global', 'link-local'] as const)('next hop %s: pods on both nodes, source intact', async (nextHop) => {
      const { client, a, b, pods, vips } = built(calicoBgp({ nextHop }));
      const bind = `[${vips[0]}]:5514`;
      for (const node of [a, b]) mode.takeVip(node, vips[0]);
      const agents = [
        await started(mode, a, listener({ bind, interface: a.nic, downstream: pods })),
        await started(mode, b, listener({ bind, interface: b.nic, downstream: pods })),
      ];
      const at = await receivers(pods);
      const from = Array.from({ length: 20 }, (_, index) => `[${client.ip}]:${40000 + index}`);
      const sent = await send(client, { to: bind, from, count: 2000, cpu: 0, rate: 20_000 });
      const report = await at.report({ expect: sent.count });
      expect(union(report, sent)).toEqual({ received: 2000, missing: [], duplicated: [] });
      expect(report.errors).toEqual({ InErrors: 0, InCsumErrors: 0, RcvbufErrors: 0, NoPorts: 0 });
      for (const receiver of report.receivers) {
        // Each node that the router's hash chose has its own round robin.
        expect(Math.abs(receiver.count - 1000)).toBeLessThanOrEqual(2);
        // Router, node: one hop each; and the other node's own forwarding for a pod that lives there. Never more.
        const [least, most] = [63 - 2 * mode.hop, 64 - 2 * mode.hop];
        expect(Object.keys(receiver.ttls).every((ttl) => Number(ttl) >= least && Number(ttl) <= most)).toBe(true);
      }
      const books = await Promise.all(agents.map((agent) => ledger(agent, 'test', { atLeast: 1 })));
      expect(books.map(({ received }) => received).reduce((sum, each) => sum + each)).toBe(2000);
    });

    test('two nodes that listen on the port of their pods do not play ping-pong', async () => {
      const { client, a, b, pods } = built(calicoBgp());
      const listen = (node: Host) => listener({ bind: '[::]:5514', interface: node.nic, downstream: pods });
      const agents = [await started(mode, a, listen(a)), await started(mode, b, listen(b))];
      const at = await receivers(pods);
      const sent = await send(client, { to: `[${a.ip}]:5514`, count: 1000, cpu: 0 });
      const report = await at.report({ expect: 1000 });
      expect(union(report, sent)).toEqual({ received: 1000, missing: [], duplicated: [] });
      expect(await ledger(agents[0]!, 'test', 1000)).toMatchObject({ forwarded: 1000 });
      await ledger(agents[1]!, 'test', 0);
    });
  },
);
