/** Addresses that a service proxy of IPVS keeps on this host: they are Services', and no wildcard listener's. */
import { afterEach, describe, expect, test } from 'vitest';
import { startAgent } from '../../lab/agent.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, send } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle() ?? lacking('nftables');
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const VIP = '10.123.123.202';
const ATTACHED = /attached TC eBPF program/;

/** A node with the proxy's interface, a Service's VIP on it, and a rule in the proxy's place that knows the Service's pod. */
function lab(proxy: string) {
  const topology = singleNode();
  cleanUps.push(() => topology.close());
  const { client, node, pods } = topology;
  // The real one is a dummy, of a module that need not be there. What counts is the name.
  node.namespace.ip([`link add ${proxy} type bridge`, `addr add ${VIP}/32 dev ${proxy}`]);
  client.namespace.ip([`route add ${VIP}/32 via 10.0.0.1`]);
  node.namespace.run('nft', ['add table ip proxy; add chain ip proxy pre { type nat hook prerouting priority -100; }']);
  node.namespace.run('nft', [`add rule ip proxy pre ip daddr ${VIP} udp dport 9000 dnat to ${pods[2]!.address}`]);
  return topology;
}

describe.skipIf(obstacle)(titled('a VIP of a Service, on the interface of its proxy', obstacle), () => {
  test.each(['kube-ipvs0', 'kube-dummy-if'])(
    '%s: a wildcard listener leaves it alone, a bind to it takes it',
    async (proxy) => {
      const { client, node, pods } = lab(proxy);
      const [one, other, service] = pods;
      const agent = startAgent(
        node,
        config(
          listener({ name: 'wild', bind: '0.0.0.0:9000', interface: 'eth0', downstream: [one!] }),
          listener({ name: 'vip', bind: `${VIP}:9001`, interface: 'eth0', downstream: [other!] }),
        ),
      );
      cleanUps.push(() => agent.stop());
      await agent.waitFor(ATTACHED);
      const at = await receive([one!, other!, service!]);
      cleanUps.push(() => at.close());
      const through = async (to: string, shares: readonly number[]) => {
        const sent = await send(client, { to, from: '10.0.0.9:40000', count: 30 });
        const report = await at.report({ expect: 30 });
        expect(union(report, sent)).toEqual({ received: 30, missing: [], duplicated: [] });
        expect([to, report.receivers.map(({ count }) => count)]).toEqual([to, shares]);
      };
      await through(`${VIP}:9000`, [0, 0, 30]);
      await through(`${VIP}:9001`, [0, 30, 0]);
      await through('10.0.0.1:9000', [30, 0, 0]);
      expect((await ledger(agent, 'wild', 30)).forwarded).toBe(30);
      expect((await ledger(agent, 'vip', 30)).forwarded).toBe(30);
    },
  );
});
