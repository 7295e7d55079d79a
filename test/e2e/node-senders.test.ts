/**
 * Senders that are cluster nodes: what a node routes to a pod of its own with its own address as source it drops, as a
 * forgery, whatever rp_filter says. So such a datagram goes elsewhere, and only where all pods are that node's it bears the
 * address of the node that forwards it.
 */
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { RemoteApi } from '../../lab/api/remote.ts';
import { aNode, anEndpoint, aSlice } from '../../lab/api/slices.ts';
import type { Host, Pod } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { type NodesOptions, nodes } from '../../lab/nodes.ts';
import { patient } from '../../lab/patience.ts';
import { addressText } from '../../lab/sockaddr.ts';
import { receive, send } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';
import { inMode, MODES, type Mode } from './modes.ts';

const obstacle = labObstacle();
const COUNT = 60;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** Two nodes; the agent's is the first, the sender is the second. */
function lab(options: NodesOptions) {
  const built = nodes(options);
  cleanUps.push(() => built.close());
  const [here, sender] = built.nodes as [Host, Host];
  return { ...built, here, sender, all: built.pods.flat() };
}

async function started(here: Host, mode: Mode, downstream: readonly Pod[]): Promise<Agent> {
  const bind = here.ip.includes(':') ? '[::]:9000' : '0.0.0.0:9000';
  const agent = startAgent(here, config(inMode(mode, listener({ bind, interface: 'eth0', downstream }))));
  cleanUps.push(() => agent.stop());
  await agent.waitFor(mode.ready);
  return agent;
}

/** What each pod got of numbered datagrams of a host, and from whom; each came exactly once. */
async function arrivals(from: Host, to: Host, pods: readonly Pod[], ip = from.ip) {
  await using at = await receive(pods);
  const sent = await send(from, { to: addressText(to.ip, 9000), from: addressText(ip, 40000), count: COUNT, cpu: 0 });
  const report = await at.report({ expect: COUNT });
  expect(union(report, sent)).toEqual({ received: COUNT, missing: [], duplicated: [] });
  return report.receivers.map(({ count, sources }) => ({ count, sources: Object.keys(sources) }));
}

const CASES = MODES.flatMap((mode) => ([4, 6] as const).map((family) => ({ mode, family, name: mode.name })));

describe.skipIf(obstacle)(titled('a sender that is a node of the cluster', obstacle), () => {
  test.each(CASES)('IPv$family, $name: the pods of the others share what it sends', async ({ mode, family }) => {
    const { here, sender, all } = lab({ pods: [2, 2], family });
    const agent = await started(here, mode, all);
    const source = [addressText(sender.ip, 40000)];
    const share = { count: COUNT / 2, sources: source };
    const nothing = { count: 0, sources: [] };
    expect(await arrivals(sender, here, all)).toEqual([share, share, nothing, nothing]);
    expect(await ledger(agent, 'test', COUNT)).toMatchObject({ forwarded: COUNT, dropped: {}, toSafetyNet: {} });
  });

  test.each(CASES)(
    'IPv$family, $name: it has nearly all pods: the one elsewhere gets all',
    async ({ mode, family }) => {
      const { here, sender, all } = lab({ pods: [1, 5], family });
      const agent = await started(here, mode, all);
      const counts = (await arrivals(sender, here, all)).map(({ count }) => count);
      expect(counts).toEqual([COUNT, 0, 0, 0, 0, 0]);
      expect(await ledger(agent, 'test', COUNT)).toMatchObject({ forwarded: COUNT, dropped: {}, toSafetyNet: {} });
    },
  );

  test.each(CASES)('IPv$family, $name: it has all pods: they see the forwarding node', async ({ mode, family }) => {
    const { here, sender, all } = lab({ pods: [0, 3], family });
    const agent = await started(here, mode, all);
    const found = await arrivals(sender, here, all);
    expect(found.map(({ count }) => count)).toEqual([COUNT / 3, COUNT / 3, COUNT / 3]);
    for (const { sources } of found) for (const one of sources) expect(one).toContain(here.ip);
    const toSafetyNet = mode.name === 'tc_ebpf' ? { hairpin: COUNT } : {};
    expect(await ledger(agent, 'test', COUNT)).toMatchObject({ forwarded: COUNT, dropped: {}, toSafetyNet });
  });

  test.each(CASES)('IPv$family, $name: the client’s are everybody’s, evenly', async ({ mode, family }) => {
    const { client, here, all } = lab({ pods: [2, 2], family });
    const agent = await started(here, mode, all);
    const share = { count: COUNT / 4, sources: [addressText(client.ip, 40000)] };
    expect(await arrivals(client, here, all)).toEqual([share, share, share, share]);
    expect(await ledger(agent, 'test', COUNT)).toMatchObject({ forwarded: COUNT, dropped: {}, toSafetyNet: {} });
  });
});

describe.skipIf(obstacle)(titled('a node’s own datagrams that a router brings back to it', obstacle), () => {
  test.each([4, 6] as const)('IPv%i: its own receivers get them, by another address too', async (family) => {
    const { client, here } = lab({ pods: [0, 0], family });
    const other = family === 4 ? '10.0.0.210' : 'fd00::210';
    here.namespace.ip([`addr add ${other}/${family === 4 ? 24 : 64} dev eth0`]);
    const receiver = { ...here, port: 9001, address: addressText(other, 9001), hostInterface: 'lo' };
    const agent = await started(here, MODES[0]!, [receiver]);
    expect(await arrivals(client, here, [receiver], here.ip)).toEqual([
      { count: COUNT, sources: [addressText(here.ip, 40000)] },
    ]);
    const books = await ledger(agent, 'test', COUNT);
    expect(books).toMatchObject({ forwarded: COUNT, dropped: {}, toSafetyNet: { hairpin: COUNT } });
  });
});

describe.skipIf(obstacle)(titled('a node that Kubernetes tells of', obstacle), () => {
  /** The other node routes by an address that is not the one that it sends from. */
  async function cluster(forbidden: boolean) {
    const built = lab({ pods: [1, 2] });
    const { here, sender, all } = built;
    sender.namespace.ip(['addr add 10.0.0.211/24 dev eth0']);
    here.namespace.ip(['route replace 10.1.1.0/24 via 10.0.0.211']);
    const api = await RemoteApi.start(here);
    cleanUps.push(() => api.close());
    if (forbidden) await api.deny('get', '');
    await api.apply('', aNode('node-a', here.ip), aNode('node-b', sender.ip, 'fd00::11'));
    const endpoints = all.map(({ ip }, at) => ({ ...anEndpoint(ip), nodeName: at === 0 ? 'node-a' : 'node-b' }));
    await api.apply('logging', aSlice('receivers-a', endpoints));
    const kubernetes = { namespace: 'logging', service: 'receivers', port: 9000 };
    const one = { name: 'test', bind: '0.0.0.0:9000', interface: 'eth0', mode: 'tc_ebpf', kubernetes };
    const agent = startAgent(
      here,
      { listeners: [one], metrics: { enabled: true, bind: '127.0.0.1:9090' } },
      { env: { KUBECONFIG: api.kubeconfig } },
    );
    cleanUps.push(() => agent.stop());
    return { ...built, agent };
  }

  test('its own address counts, and not that of the gateway', async () => {
    const { agent, here, sender, all } = await cluster(false);
    // Once with the endpoints, once with what their nodes are.
    const updates = () => agent.lines.filter((line) => line.includes('updated tc_ebpf downstream set')).length;
    await expect.poll(updates, { timeout: patient(5000) }).toBe(2);
    expect((await arrivals(sender, here, all)).map(({ count }) => count)).toEqual([COUNT, 0, 0]);
    expect(await ledger(agent, 'test', COUNT)).toMatchObject({ forwarded: COUNT, dropped: {}, toSafetyNet: {} });
  });

  test('where nodes may not be asked for, that is said once, and the gateway counts', async () => {
    const { agent, here, sender, all } = await cluster(true);
    await agent.waitFor(/INFO Nodes are not ours to get .*the gateways on the way to them stand in/);
    expect((await arrivals(sender, here, all, '10.0.0.211')).map(({ count }) => count)).toEqual([COUNT, 0, 0]);
    expect(await ledger(agent, 'test', COUNT)).toMatchObject({ forwarded: COUNT, dropped: {}, toSafetyNet: {} });
  });
});
