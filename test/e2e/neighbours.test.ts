/** Neighbours that are not there, or not yet: what is for them arrives, or is dropped by name, and nothing else. */
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { loses } from '../../lab/books.ts';
import { type DualStack, dualStack } from '../../lab/dual-stack.ts';
import type { Pod } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { pause, until } from '../../lab/patience.ts';
import { type Receivers, receive, type Sent, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { type Ledger, ledger } from './conservation.ts';

const obstacle = labObstacle();
const FAMILIES = [4, 6] as const;
type Family = (typeof FAMILIES)[number];
const TO = { 4: '10.0.0.1:9000', 6: '[fd00::1]:9000' } as const;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** A batch of the pod's softirq (net.core.dev_weight): what has come to its end of the link and not to a socket is the pod's. */
const IN_HAND = 64;

interface Stage extends DualStack {
  readonly agent: Agent;
  readonly targets: readonly Pod[];
  readonly at: Receivers;
}

async function stage(family: Family, prepare: (built: DualStack) => void = () => {}): Promise<Stage> {
  const built = dualStack({ vlan: false });
  cleanUps.push(() => built.close());
  prepare(built);
  const targets = family === 4 ? built.pods : built.pods6;
  const agent = startAgent(built.node, config(listener({ bind: '[::]:9000', interface: 'eth0', downstream: targets })));
  cleanUps.push(() => agent.stop());
  await agent.waitFor(/attached TC eBPF program to ingress/);
  const at = await receive(targets);
  cleanUps.push(() => at.close());
  return { ...built, agent, targets, at };
}

const flush = ({ node }: DualStack, { hostInterface }: Pod) => node.namespace.ip([`neigh flush dev ${hostInterface}`]);
/** From now on it does not say where it is, though it still takes what comes. */
const silence = ({ namespace, ip }: Pod) => {
  namespace.sysctl({ 'net/ipv4/conf/eth0/arp_ignore': 8 });
  if (ip.includes(':')) namespace.ip([`addr add ${ip}/128 dev lo`, `addr del ${ip}/128 dev eth0`]);
};
const doesNotForward = ({ node }: DualStack) => {
  node.namespace.sysctl({ 'net/ipv4/ip_forward': 0, 'net/ipv6/conf/all/forwarding': 0 });
};
const sum = (counts: Readonly<Record<string, number>>) => Object.values(counts).reduce((all, one) => all + one, 0);

/** What was lost, and the books beside it: nothing is dropped that arrives, and each that is forwarded is sent. */
async function settled({ agent, at }: Stage, sent: Sent): Promise<Ledger & { readonly lost: number }> {
  const books = await ledger(agent, 'test', sent.count);
  const { received, duplicated } = union(await at.report({ quiet: 500 }), sent);
  expect(duplicated).toEqual([]);
  return { ...books, lost: sent.count - received };
}

/** What is lost when a pod falls silent under traffic, until well after it is out. */
async function fallenSilent(now: Stage, family: Family): ReturnType<typeof settled> {
  const sending = await startSending(now.client, { to: TO[family], rate: 8000, cpu: 0 });
  await until('traffic', async () => (await now.at.peek()).count >= 800);
  const pod = now.targets[1]!;
  silence(pod);
  flush(now, pod);
  await now.agent.waitFor(/health path failed/);
  await pause(500);
  return settled(now, await sending.stop());
}

describe.skipIf(obstacle)(titled('a neighbour', obstacle), () => {
  test.each(FAMILIES)('IPv%i: that has to be asked for gets all, from the first datagram on', async (family) => {
    const now = await stage(family);
    const sending = await startSending(now.client, { to: TO[family], rate: 3000, cpu: 0 });
    await until('traffic', async () => (await now.at.peek()).count >= 300);
    for (let round = 0; round < 10; round++) {
      for (const pod of now.targets) flush(now, pod);
      await pause(50);
    }
    const { lost, toSafetyNet } = await settled(now, await sending.stop());
    expect(lost).toBe(0);
    expect(toSafetyNet.neigh_unresolved).toBeGreaterThanOrEqual(10);
  });

  test.each(FAMILIES)('IPv%i: that does not answer: each datagram that is lost has a name', async (family) => {
    const { lost, dropped } = await fallenSilent(await stage(family), family);
    // Where the agent has no time the ring may be full, too.
    expect(sum(dropped)).toBe(lost);
    expect(dropped.neigh_unresolved).toBeGreaterThan(1000);
    expect(lost).toBeLessThan(1.6 * (8000 / 3));
  });

  test.each(FAMILIES)('IPv%i: where this host does not forward: it is asked for, too', async (family) => {
    const now = await stage(family, doesNotForward);
    // At most what came between two looks of a flush: one of each.
    const inQueues = 4 * now.targets.length;
    loses('a flush takes with it what the kernel has just queued for the neighbour that it asks for', {
      atMost: inQueues,
    });
    const sending = await startSending(now.client, { to: TO[family], rate: 3000, cpu: 0 });
    await until('traffic', async () => (await now.at.peek()).count >= 300);
    for (let round = 0; round < 4; round++) {
      for (const pod of now.targets) flush(now, pod);
      await pause(300);
    }
    const { lost } = await settled(now, await sending.stop());
    expect(lost).toBeLessThanOrEqual(inQueues);
  });

  test.each(FAMILIES)('IPv%i: where this host does not forward: silent, most has a name', async (family) => {
    const atMost = 0.6 * (8000 / 3);
    loses('what the kernel queues until the agent has heard that the neighbour is not resolved', { atMost });
    const { lost, dropped } = await fallenSilent(await stage(family, doesNotForward), family);
    expect(Object.keys(dropped)).toEqual(['neigh_unresolved']);
    expect(lost).toBeLessThan(1.8 * (8000 / 3));
    // The agent hears of it within a tenth of a second, and makes a table then.
    expect(lost - sum(dropped)).toBeLessThan(Math.min(lost / 3, atMost));
  });

  // One family each: a link has none.
  const ENDS: readonly (readonly [Family, string, (built: DualStack, pod: Pod) => void])[] = [
    [4, 'the other end of its link goes down', (_, pod) => pod.namespace.ip(['link set eth0 down'])],
    [6, 'its link goes down', ({ node }, pod) => node.namespace.ip([`link set ${pod.hostInterface} down`])],
    [4, 'its link goes', ({ node }, pod) => node.namespace.ip([`link del ${pod.hostInterface}`])],
  ];
  test.each(ENDS)('IPv%i: %s: what is lost is dropped by name, or by the device', async (family, _, end) => {
    loses('what the pod’s own stack has in hand as its link ends goes with it', { atMost: IN_HAND });
    const now = await stage(family);
    const pod = now.targets[1]!;
    const sending = await startSending(now.client, { to: TO[family], rate: 8000, cpu: 0 });
    await until('traffic', async () => (await now.at.peek()).count >= 800);
    end(now, pod);
    await now.agent.waitFor(/health path failed/);
    await pause(500);
    const { lost, dropped } = await settled(now, await sending.stop());
    expect(lost).toBeLessThan(8000 / 3);
    const byDevice = (await now.agent.metrics()).get(`udp_fanout_egress_drops_total{interface="${pod.hostInterface}"}`);
    // Until the kernel has noticed, the device drops, and says so also once it is gone. It may drop others' packets too, such as
    // questions for neighbours, and Linux 6.13 counts a redirected one twice: so what it says is a bound.
    const unnamed = lost - sum(dropped);
    expect(unnamed).toBeGreaterThanOrEqual(0);
    expect(unnamed).toBeLessThanOrEqual(byDevice! + IN_HAND);
  });
});
