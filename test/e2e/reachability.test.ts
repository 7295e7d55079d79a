/** What the kernel knows of the ways to downstreams, without a `health` section: real links, routes and neighbours. */
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { loses } from '../../lab/books.ts';
import type { Host, Pod, Topology } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient, pause, until } from '../../lab/patience.ts';
import { type SingleNodeOptions, singleNode } from '../../lab/single-node.ts';
import { receive, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const RATE = 8000;
/** What a pod of three may lose: a second of its share. */
const MOST_LOST = RATE / 3;

const obstacle = labObstacle();
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function built<T extends Topology>(topology: T): T {
  cleanUps.push(() => topology.close());
  return topology;
}

async function started(node: Host, downstream: readonly (Pod | string)[], more: object = {}): Promise<Agent> {
  const agent = startAgent(node, {
    ...config(listener({ bind: '0.0.0.0:9000', interface: node.nic, downstream })),
    ...more,
  });
  cleanUps.push(() => agent.stop());
  await agent.waitFor(/attached TC eBPF program to ingress/);
  return agent;
}

interface Break {
  readonly node: Host;
  readonly pod: Pod;
  /** Ends the way to the pod. */
  readonly end: () => unknown;
  readonly mend: () => unknown;
  readonly cause: RegExp;
}

/** Numbered datagrams while a pod of three cannot be reached for two seconds, or `ms`: how many are lost. */
async function lostWhile(topology: ReturnType<typeof singleNode>, broken: (one: Break['pod']) => Break, ms = 2000) {
  const { client, node, pods } = topology;
  const agent = await started(node, pods);
  const at = await receive(pods);
  cleanUps.push(() => at.close());
  const sending = await startSending(client, { to: '10.0.0.1:9000', rate: RATE, cpu: 0 });
  await until('traffic', async () => (await at.peek()).count >= 800);
  const { end, mend, cause, pod } = broken(pods[1]!);
  let from = agent.lines.length;
  end();
  const line = await agent.waitFor(/health path failed/, { from });
  expect(line).toMatch(cause);
  expect(line).toContain(`listener="test" downstream="${pod.address}"`);
  await agent.waitFor(/updated tc_ebpf downstream set .*endpoints=2$/, { from });
  await pause(ms);
  expect((await agent.get('/readyz')).body).toContain(`health(test): no way to ${pod.address}`);
  const metrics = await agent.metrics();
  expect(metrics.get(`udp_fanout_downstream_health{listener="test",endpoint="${pod.address}"}`)).toBe(0);
  expect(metrics.get(`udp_fanout_downstream_health{listener="test",endpoint="${pods[0]!.address}"}`)).toBe(1);
  from = agent.lines.length;
  mend();
  await agent.waitFor(/health path recovered .*next="in use again"/, { from });
  await agent.waitFor(/updated tc_ebpf downstream set .*endpoints=3$/, { from });
  await pause(500);
  const sent = await sending.stop();
  const { missing, duplicated } = union(await at.report({ quiet: 300 }), sent);
  expect(duplicated).toEqual([]);
  const lost = missing.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  const { forwarded, downstreams } = await ledger(agent, 'test', { atLeast: 1000 });
  expect(Object.values(downstreams).reduce((sum, count) => sum + count, 0)).toBe(forwarded);
  return lost;
}

describe.skipIf(obstacle)(titled('a downstream without a way to it is out at once', obstacle), () => {
  const linkOf = (pod: Pod) => ({ down: () => pod.namespace.ip(['link set eth0 down']), up: () => linkUp(pod) });
  const linkUp = (pod: Pod) => {
    pod.namespace.ip(['link set eth0 up']);
    pod.namespace.ip(['route replace 169.254.1.1 dev eth0 scope link']);
    pod.namespace.ip(['route replace default via 169.254.1.1 dev eth0']);
  };
  const routed: SingleNodeOptions = { wiring: 'routed' };

  test('its link has no carrier', async () => {
    const topology = built(singleNode(routed));
    const lost = await lostWhile(topology, (pod) => {
      const { down, up } = linkOf(pod);
      return { node: topology.node, pod, end: down, mend: up, cause: /cause="link veth11 has no carrier"/ };
    });
    expect(lost).toBeLessThanOrEqual(MOST_LOST);
  });

  test('its link is a port of a bridge', async () => {
    loses('a bridge floods what is for a station that it has forgotten, and nobody counts that', { atMost: MOST_LOST });
    const topology = built(singleNode({ wiring: 'bridged' }));
    const set = (state: string) => topology.node.namespace.ip([`link set veth11 ${state}`]);
    const lost = await lostWhile(topology, (pod) => {
      const cause = /cause="link veth11 is down"/;
      return { node: topology.node, pod, end: () => set('down'), mend: () => set('up'), cause };
    });
    expect(lost).toBeLessThanOrEqual(MOST_LOST);
  });

  test.each([
    ['blackhole', 'replace blackhole 10.0.1.11/32', /cause="blackhole route"/],
    ['unreachable', 'replace unreachable 10.0.1.11/32', /cause="unreachable route"/],
    ['prohibit', 'replace prohibit 10.0.1.11/32', /cause="prohibit route"/],
    ['gone', 'del 10.0.1.11/32', /cause="no route"/],
  ])('its route is %s', async (_, change, cause) => {
    const topology = built(singleNode(routed));
    const { namespace } = topology.node;
    const lost = await lostWhile(topology, (pod) => {
      const end = () => namespace.ip([`route ${change}`]);
      const mend = () => namespace.ip(['route replace 10.0.1.11/32 dev veth11']);
      return { node: topology.node, pod, end, mend, cause };
    });
    expect(lost).toBeLessThanOrEqual(MOST_LOST);
  });

  test('its neighbour does not answer, and is asked until it does', async () => {
    loses('the pod gives its address up before the node is told to forget where it is', { atMost: patient(RATE / 10) });
    const topology = built(singleNode(routed));
    const { namespace } = topology.node;
    const lost = await lostWhile(
      topology,
      (pod) => {
        const end = () => {
          pod.namespace.ip(['addr del 10.0.1.11/32 dev eth0']);
          namespace.ip(['neigh flush dev veth11']);
        };
        const mend = () => {
          pod.namespace.ip(['addr add 10.0.1.11/32 dev eth0']);
          linkUp(pod);
        };
        return { node: topology.node, pod, end, mend, cause: /cause="neighbour 10.0.1.11 does not answer"/ };
      },
      3000,
    );
    // The second that it is given, and the tenths until that is noticed; not the 3 s that the kernel takes.
    expect(lost).toBeLessThanOrEqual(1.5 * MOST_LOST);
  });

  test('and a route that moves is followed, also where this host does not forward', async () => {
    const { client, node, pods } = built(singleNode({ ...routed, ipForward: 0 }));
    const agent = await started(node, pods);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const pod = pods[1]!;
    node.namespace.ip([`link add other type veth peer name eth1 netns ${pod.namespace.name}`, 'link set other up']);
    pod.namespace.ip(['link set eth1 up']);
    // Until the last notice of the new link, its IPv6 address's, which would trigger a pass.
    await pause(4000);
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: RATE, cpu: 0 });
    await until('traffic', async () => (await at.peek()).count >= 800);
    node.namespace.ip(['route replace 10.0.1.11/32 dev other']);
    await pause(1000);
    const arrived = () => pod.namespace.interfaceCounters('eth0').rxPackets;
    const before = arrived();
    await pause(1000);
    // A neighbour that is asked whether it is still there, perhaps.
    expect(arrived() - before).toBeLessThan(10);
    const sent = await sending.stop();
    expect(union(await at.report({ expect: sent.count }), sent)).toMatchObject({ missing: [], duplicated: [] });
    await ledger(agent, 'test', sent.count);
  });

  test('and where no downstream has one, all stay in use, loudly', async () => {
    const { node, pods } = built(singleNode({ ...routed, pods: 2 }));
    const agent = await started(node, pods);
    for (const { hostInterface } of pods) node.namespace.ip([`link set ${hostInterface} down`]);
    await agent.waitFor(/WARN health paths of all downstreams failed: all stay in use \(fail_open\) listener="test"/);
    const active = async () => (await agent.metrics()).get('udp_fanout_downstream_active{listener="test"}');
    await until('both in use', async () => (await active()) === 2);
    const metrics = await agent.metrics();
    expect(metrics.get('udp_fanout_health_fail_open{listener="test"}')).toBe(1);
    expect((await agent.get('/readyz')).body).toContain(
      'health(test): the paths of all IPv4 downstreams failed: all stay in use (fail_open)',
    );
  });
});

describe.skipIf(obstacle)(titled('what is dropped on the way out', obstacle), () => {
  test('by a queue that is full is counted by interface: sent = received + dropped there', async () => {
    const { client, node, pods } = built(singleNode({ pods: 2 }));
    const tc = (...words: string[]) => node.namespace.run('tc', words);
    tc('qdisc', 'replace', 'dev', 'veth10', 'root', 'tbf', 'rate', '1mbit', 'burst', '5kb', 'limit', '5000');
    const agent = await started(node, pods);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const dropped = async (name: string) =>
      (await agent.metrics()).get(`udp_fanout_egress_drops_total{interface="${name}"}`);
    expect([await dropped('veth10'), await dropped('veth11'), await dropped('eth0')]).toEqual([0, 0, undefined]);
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: RATE, cpu: 0 });
    await pause(1000);
    const sent = await sending.stop();
    const { received } = union(await at.report({ quiet: 1000 }), sent);
    const lost = await dropped('veth10');
    expect(lost).toBeGreaterThan(100);
    expect(received + lost!).toBe(sent.count);
    const { forwarded } = await ledger(agent, 'test', sent.count);
    expect(forwarded - lost!).toBe(received);
    const all = [await dropped('veth10'), await dropped('veth11')];
    node.namespace.ip(['link del veth10', 'link set veth11 down']);
    await agent.waitFor(/health path failed/);
    await pause(500);
    // A counter that goes away takes with it what came since the last scrape.
    expect(await dropped('veth10'), 'of a link that is gone').toBeGreaterThanOrEqual(all[0]!);
    expect(await dropped('veth11'), 'of a link that leads nowhere').toBeGreaterThanOrEqual(all[1]!);
  });
});

describe.skipIf(obstacle)(titled('a downstream that can be reached is never out', obstacle), () => {
  /** Lines that say that one is. */
  const outs = ({ lines }: Agent) => lines.filter((line) => /health path failed|endpoints=[012]$/.test(line));

  test('while its neighbour entry fails, goes and comes', async () => {
    const { client, node, pods } = built(singleNode());
    const agent = await started(node, pods);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: 2000, cpu: 0 });
    const end = performance.now() + patient(4000);
    for (let round = 0; performance.now() < end; round++) {
      const change = ['nud failed', 'nud incomplete', 'nud stale'][round % 3];
      // A change of an entry that is gone meanwhile is refused.
      for (const command of [`neigh replace 10.0.1.11 dev veth11 ${change}`, 'neigh flush dev veth11']) {
        try {
          node.namespace.ip([command]);
        } catch {}
      }
      await pause(30);
    }
    await sending.stop();
    await pause(1500);
    expect(outs(agent)).toEqual([]);
    const before = (await at.report({ quiet: 200 })).receivers[1]!.count;
    expect(before).toBeGreaterThan(1000);
  });

  test('behind a proxy that takes its time, or behind a device without neighbours', async () => {
    const { client, node, pods } = built(singleNode());
    const [proxy, plain, noArp] = pods as [Pod, Pod, Pod];
    proxy.namespace.sysctl({ 'net/ipv4/ip_forward': 1, 'net/ipv4/conf/eth0/proxy_arp': 1 });
    proxy.namespace.ip(['link add p0 type veth peer name p1', 'link set p0 up', 'link set p1 up']);
    proxy.namespace.ip(['route add 10.0.1.50/32 dev p0']);
    node.namespace.ip(['route add 10.0.1.50/32 dev veth10', `link set ${noArp.hostInterface} arp off`]);
    // Without neighbours frames bear the device's own address.
    noArp.namespace.ip(['link set eth0 address 02:00:00:00:02:0c']);
    const agent = await started(node, [plain, noArp, '10.0.1.50:9000']);
    const at = await receive([noArp]);
    cleanUps.push(() => at.close());
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: 600, cpu: 0 });
    for (let round = 0; round < 3; round++) {
      node.namespace.ip(['neigh flush dev veth10', 'neigh flush dev veth12']);
      await pause(1500);
    }
    const { count } = await sending.stop();
    loses('only one of three downstreams is received at', { atMost: Math.ceil(count * 0.75) });
    expect(outs(agent)).toEqual([]);
    expect((await at.report({ quiet: 200 })).receivers[0]!.count).toBeGreaterThan(count / 4);
  });
});
