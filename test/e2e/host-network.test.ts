/**
 * Receivers on the host network with the port of the wildcard listener itself: what one node's agent has sent to such a
 * receiver reaches the other node as any sender's datagram would. It is not spread once more.
 */
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { type Nodes, nodes } from '../../lab/nodes.ts';
import { patient } from '../../lab/patience.ts';
import { addressText } from '../../lab/sockaddr.ts';
import { receive, send } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle();
const COUNT = 300;
const NODES = 3;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** Three nodes, each with an agent and a receiver; each knows the others' MACs. */
async function cluster(family: 4 | 6): Promise<Nodes & { readonly agents: readonly Agent[] }> {
  const built = nodes({ pods: [0, 0, 1], family });
  cleanUps.push(() => built.close());
  const downstream = built.nodes.map(({ ip }) => addressText(ip, 9000));
  const bind = family === 4 ? '0.0.0.0:9000' : '[::]:9000';
  const agents = built.nodes.map((node) => startAgent(node, config(listener({ bind, interface: 'eth0', downstream }))));
  for (const agent of agents) cleanUps.push(() => agent.stop());
  for (const agent of agents) await agent.waitFor(/attached TC eBPF program to ingress/);
  return { ...built, agents };
}

const passedBy = async (agent: Agent) => {
  const label = 'udp_fanout_packets_passed_total{listener="test",mode="tc_ebpf",reason="already_spread"}';
  return (await agent.metrics()).get(label);
};

describe.skipIf(obstacle)(titled('receivers on the host network, on the listener’s own port', obstacle), () => {
  test.each([4, 6] as const)('IPv%i: each gets its share of what comes to one node', async (family) => {
    const { client, nodes: hosts, agents } = await cluster(family);
    await using at = await receive(hosts, { port: 9000 });
    const [first] = hosts;
    const to = addressText(first!.ip, 9000);
    // Until all know each other.
    await expect
      .poll(
        async () => {
          await send(client, { to, count: NODES * 10, cpu: 0 });
          const { receivers } = await at.report({ expect: NODES * 10 });
          return receivers.map(({ count }) => count);
        },
        { timeout: patient(10_000) },
      )
      .toEqual(hosts.map(() => 10));
    const before = await Promise.all(agents.map((agent) => passedBy(agent)));
    const sent = await send(client, { to, count: COUNT, cpu: 0 });
    const report = await at.report({ expect: COUNT });
    expect(union(report, sent)).toEqual({ received: COUNT, missing: [], duplicated: [] });
    expect(report.receivers.map(({ count }) => count)).toEqual(hosts.map(() => COUNT / NODES));
    const after = await Promise.all(agents.map((agent) => passedBy(agent)));
    expect(after.map((passed, index) => passed! - before[index]!)).toEqual([0, COUNT / NODES, COUNT / NODES]);
    for (const agent of agents) await ledger(agent, 'test', { atLeast: 0 });
  });

  test.each([4, 6] as const)('IPv%i: what a node or its pods send themselves is spread', async (family) => {
    const { nodes: hosts, pods } = await cluster(family);
    await using at = await receive(hosts, { port: 9000 });
    const [first, , third] = hosts;
    for (const sender of [third!, pods[2]![0]!]) {
      const from = addressText(sender.ip, 40000);
      const sent = await send(sender, { to: addressText(first!.ip, 9000), from, count: COUNT, cpu: 0 });
      const report = await at.report({ expect: COUNT });
      expect(union(report, sent)).toEqual({ received: COUNT, missing: [], duplicated: [] });
      expect(report.receivers[0]!.count).toBeLessThan(COUNT);
      expect(report.receivers[1]!.count).toBeGreaterThan(COUNT / 4);
    }
  });
});
