/** An API outage after which all pods are called unready, while they run and answer: the real agent, real probes. */
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { RemoteApi } from '../../lab/api/remote.ts';
import { anEndpoint, aSlice } from '../../lab/api/slices.ts';
import type { Host, Pod } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { pause } from '../../lab/patience.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle();
const NS = 'logging';
const RATE = 2000;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** Three pods of one Service, all of them ready. */
async function built() {
  const lab = singleNode();
  cleanUps.push(() => lab.close());
  const api = await RemoteApi.start(lab.node);
  cleanUps.push(() => api.close());
  await api.apply(NS, slice(lab.pods, true));
  return { ...lab, api };
}

const slice = (pods: readonly Pod[], ready: boolean) =>
  aSlice(
    'a',
    pods.map(({ ip }) => anEndpoint(ip, { ready })),
  );

/** An agent that follows the Service, its first datagrams forwarded. */
async function started(node: Host, api: RemoteApi, keys: object = {}): Promise<Agent> {
  const kubernetes = { namespace: NS, service: 'receivers', port: 9000, ...keys };
  const listener = { name: 'syslog', bind: '0.0.0.0:9000', interface: 'eth0', mode: 'tc_ebpf', kubernetes };
  const health = { interval_secs: 1, timeout_secs: 0.5 };
  const config = { listeners: [listener], health, metrics: { enabled: true, bind: '127.0.0.1:9090' } };
  const agent = startAgent(node, config, { env: { KUBECONFIG: api.kubeconfig } });
  cleanUps.push(() => agent.stop());
  await agent.waitFor(/attached TC eBPF program to ingress/);
  return agent;
}

/** The API server is away for a while, and what it says then is new. */
async function outage(api: RemoteApi, pods: readonly Pod[], ready: boolean): Promise<void> {
  await api.stop();
  await pause(500);
  await api.apply(NS, slice(pods, ready));
  await api.start();
}

describe.skipIf(obstacle)(titled('all pods called unready', obstacle), () => {
  test('those that answer probes go on without a datagram lost, and the one that does not is left out', async () => {
    const { client, node, pods, api } = await built();
    const silent = pods[2]!;
    silent.namespace.run('nft', [
      'add table inet filter; add chain inet filter in { type filter hook input priority 0; }',
    ]);
    silent.namespace.run('nft', ['add rule inet filter in icmp type echo-request drop']);
    const agent = await started(node, api);
    await agent.waitFor(/updated tc_ebpf downstream set listener_id=0 endpoints=2$/, { timeout: 10_000 });
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: RATE, cpu: 0 });
    let from = agent.lines.length;
    await outage(api, pods, false);
    await agent.waitFor(
      /WARN no endpoint is ready: unready ones that answer health probes are in use \(last_resort\) listener="syslog" family="IPv4" endpoints=2$/,
      { from, timeout: 10_000 },
    );
    // Long enough for every one of them to be asked again, twice.
    await pause(2500);
    const metrics = await agent.metrics();
    expect(metrics.get('udp_fanout_health_last_resort{listener="syslog"}')).toBe(1);
    expect(metrics.get('udp_fanout_downstream_active{listener="syslog"}')).toBe(2);
    expect(await agent.get('/readyz')).toMatchObject({
      status: 200,
      body: 'ok\nhealth(syslog): no IPv4 endpoint is ready: unready ones are in use (last_resort)\n',
    });
    from = agent.lines.length;
    await outage(api, pods, true);
    await agent.waitFor(/INFO endpoints are ready again, last_resort ended listener="syslog"/, {
      from,
      timeout: 10_000,
    });
    const sent = await sending.stop();
    expect(sent.count).toBeGreaterThan(RATE);
    const report = await at.report({ expect: sent.count });
    expect(union(report, sent)).toEqual({ received: sent.count, missing: [], duplicated: [] });
    const [first, second, third] = report.receivers.map(({ count }) => count);
    expect(third).toBe(0);
    expect(Math.abs(first! - second!)).toBeLessThanOrEqual(2);
    expect(await ledger(agent, 'syslog', sent.count)).toMatchObject({ dropped: {} });
    expect((await agent.metrics()).get('udp_fanout_health_last_resort{listener="syslog"}')).toBe(0);
    expect(await agent.get('/readyz')).toMatchObject({ status: 200, body: 'ok\n' });
  });

  test('with unready: never the table is empty', async () => {
    const { node, pods, api } = await built();
    const agent = await started(node, api, { unready: 'never' });
    await agent.waitFor(/updated tc_ebpf downstream set listener_id=0 endpoints=3$/);
    await api.apply(NS, slice(pods, false));
    await agent.waitFor(/updated tc_ebpf downstream set listener_id=0 endpoints=0$/);
    expect(agent.lines.filter((line) => line.includes('no endpoint is ready'))).toEqual([]);
  });
});
