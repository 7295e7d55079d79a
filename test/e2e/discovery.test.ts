/** The real agent follows a Service through a fake API server in its namespace while numbered datagrams pass. */
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { RemoteApi } from '../../lab/api/remote.ts';
import { aSlice, aTerminating } from '../../lab/api/slices.ts';
import { issueCertificate } from '../../lab/api/tls.ts';
import type { Host, Pod } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient, pause, until } from '../../lab/patience.ts';
import { type SingleNode, singleNode } from '../../lab/single-node.ts';
import { type Receivers, receive, send, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';

const obstacle = labObstacle();
const NS = 'logging';
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function listener(id = 0, namespace = NS) {
  const kubernetes = { namespace, service: 'receivers', port: 9000 };
  return { name: `listener-${id}`, bind: `0.0.0.0:${9000 + id}`, interface: 'eth0', mode: 'tc_ebpf', kubernetes };
}

function start(node: Host, api: RemoteApi, ...listeners: ReturnType<typeof listener>[]): Agent {
  const config = { listeners, metrics: { enabled: true, bind: '127.0.0.1:9090' } };
  return startAgent(node, config, { env: { KUBECONFIG: api.kubeconfig } });
}

async function started(node: Host, api: RemoteApi, ...listeners: ReturnType<typeof listener>[]): Promise<Agent> {
  const agent = start(node, api, ...listeners);
  cleanUps.push(() => agent.stop());
  return agent;
}

async function built(pods: number, ...options: Parameters<typeof RemoteApi.start>[1][]) {
  const lab: SingleNode = singleNode({ pods });
  cleanUps.push(() => lab.close());
  const api = await RemoteApi.start(lab.node, ...options);
  cleanUps.push(() => api.close());
  return { ...lab, api };
}

async function receivers(pods: readonly Pod[]): Promise<Receivers> {
  const opened = await receive(pods);
  cleanUps.push(() => opened.close());
  return opened;
}

const slice = (name: string, pods: readonly Pod[]) =>
  aSlice(
    name,
    pods.map(({ ip }) => ip),
  );
const updated = (id: number, count: number) =>
  new RegExp(`INFO updated tc_ebpf downstream set listener_id=${id} endpoints=${count}$`);

describe.skipIf(obstacle)(titled('an agent that follows a Service', obstacle), () => {
  test('scale up, scale down, roll, delete and re-create: no datagram is lost while there is an endpoint', async () => {
    const tls = issueCertificate();
    const { client, node, pods, api } = await built(6, { host: '::1', tls });
    await api.apply(NS, slice('a', pods.slice(0, 2)));
    const agent = await started(node, api, listener());
    await agent.waitFor(updated(0, 2));
    const at = await receivers(pods);
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: 20_000, cpu: 0 });
    const seen = async () => (await at.peek()).receivers.map(({ count }) => count);
    /** Which pods get datagrams from a second after a change on. */
    const fed = async () => {
      await pause(1000);
      const before = await seen();
      const total = (counts: readonly number[]) => counts.reduce((sum, count) => sum + count);
      const after = await until('1000 datagrams', async () => {
        const counts = await seen();
        return total(counts) >= total(before) + 1000 && counts;
      });
      return after.flatMap((count, index) => (count > before[index]! ? [index] : []));
    };
    let from = agent.lines.length;
    const change = async (count: number, act: () => Promise<unknown>) => {
      from = agent.lines.length;
      await act();
      await agent.waitFor(updated(0, count), { from });
    };

    await change(4, () => api.apply(NS, slice('a', pods.slice(0, 4))));
    expect(await fed()).toEqual([0, 1, 2, 3]);
    await change(1, () => api.apply(NS, slice('a', pods.slice(1, 2))));
    expect(await fed()).toEqual([1]);
    // A roll: the new pods come, the old one drains, then it is gone; meanwhile the slice is split in two.
    await change(3, () => api.apply(NS, slice('b', pods.slice(4))));
    await change(2, () => api.apply(NS, aSlice('a', [aTerminating(pods[1]!.ip)])));
    await api.remove(NS, 'a');
    expect(await fed()).toEqual([4, 5]);
    // Only now is the Service without an endpoint.
    const report = await finish();
    expect(union(report, report.sent)).toEqual({ received: report.sent.count, missing: [], duplicated: [] });

    await change(0, () => api.remove(NS, 'b'));
    const lost = await send(client, { to: '10.0.0.1:9000', count: 30, cpu: 0 });
    expect(lost.count).toBe(30);
    expect((await at.report()).count).toBe(0);
    await change(3, () => api.apply(NS, slice('c', pods.slice(0, 3))));
    const sent = await send(client, { to: '10.0.0.1:9000', count: 300, cpu: 0 });
    const again = await at.report({ expect: sent.count });
    expect(again.receivers.map(({ count }) => count)).toEqual([100, 100, 100, 0, 0, 0]);
    const metrics = await agent.metrics();
    const sum = (name: string) =>
      [...metrics].reduce(
        (all, [key, value]) => all + (key.startsWith(`udp_fanout_packets_${name}_total`) ? value : 0),
        0,
      );
    const all = report.sent.count + lost.count + sent.count;
    expect([sum('received'), sum('forwarded')]).toEqual([all, all - lost.count]);
    expect(sum('dropped')).toBe(lost.count);

    async function finish() {
      const all = await sending.stop();
      return { ...(await at.report({ expect: all.count })), sent: all };
    }
  });

  test('an agent that starts while the API server is away leaves a dead agent’s datapath in use until it knows better', async () => {
    const { client, node, pods, api } = await built(3);
    await api.apply(NS, slice('a', pods.slice(0, 2)));
    const first = start(node, api, listener());
    await first.waitFor(updated(0, 2));
    await first.waitFor(/attached TC eBPF/);
    const at = await receivers(pods);
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: 20_000, cpu: 0 });
    first.kill('SIGKILL');
    await first.ended;
    await api.stop();
    const second = await started(node, api, listener());
    await second.waitFor(/failed to list EndpointSlices/);
    expect(await second.get('/readyz')).toMatchObject({ status: 503, body: 'not ready: endpoints(listener-0)\n' });
    await api.start();
    await api.apply(NS, slice('a', pods));
    await second.waitFor(updated(0, 3), { timeout: 10_000 });
    await second.waitFor(/attached TC eBPF/);
    const before = (await at.peek()).count;
    await until('300 datagrams more', async () => (await at.peek()).count >= before + 300);
    const sent = await sending.stop();
    const report = await at.report({ expect: sent.count });
    expect(union(report, sent)).toEqual({ received: sent.count, missing: [], duplicated: [] });
    expect(report.receivers.every(({ count }) => count > 0)).toBe(true);
  });

  test('the API server dies for seconds: forwarding does not notice, and then the changes come', async () => {
    const { client, node, pods, api } = await built(3);
    await api.apply(NS, slice('a', pods.slice(0, 2)));
    const agent = await started(node, api, listener());
    await agent.waitFor(updated(0, 2));
    const at = await receivers(pods);
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: 20_000, cpu: 0 });
    await api.stop();
    await api.remove(NS, 'a');
    await api.apply(NS, slice('b', pods.slice(1)));
    await agent.waitFor(/failed to list EndpointSlices.*ECONNREFUSED.*the last known endpoints stay in use/);
    const seen = async () => (await at.peek()).receivers.map(({ count }) => count);
    const before = await seen();
    await pause(2500);
    expect((await agent.get('/readyz')).status).toBe(200);
    const during = await until('1000 datagrams to each', async () => {
      const counts = await seen();
      return Math.min(counts[0]! - before[0]!, counts[1]! - before[1]!) >= 1000 && counts;
    });
    expect(Math.abs(during[0]! - during[1]!)).toBeLessThanOrEqual(1000);
    expect(during[2]).toBe(0);
    const from = agent.lines.length;
    await api.start();
    await agent.waitFor(updated(0, 2), { from, timeout: 10_000 });
    const sent = await sending.stop();
    const report = await at.report({ expect: sent.count });
    expect(union(report, sent)).toEqual({ received: sent.count, missing: [], duplicated: [] });
    const metrics = await agent.metrics();
    const labels = 'namespace="logging",service="receivers"';
    expect(metrics.get(`udp_fanout_discovery_relists_total{${labels}}`)).toBe(1);
    expect(metrics.get(`udp_fanout_discovery_errors_total{${labels},cause="unreachable"}`)).toBeGreaterThan(0);
    expect(metrics.get(`udp_fanout_discovery_endpoints{${labels},state="ready"}`)).toBe(2);
    expect(metrics.get(`udp_fanout_discovery_connected{${labels}}`)).toBe(1);
    expect(metrics.get(`udp_fanout_discovery_watch_age_seconds{${labels}}`)).toBeLessThan(patient(10));
  });

  test('a storm of 1000 events in a second: at most 20 swaps, and the last state is right', async () => {
    const { node, api } = await built(1);
    const service = { namespace: NS, service: 'receivers', slices: 10, perSlice: 20 };
    await api.churn({ ...service, events: 10, perSecond: 1000 });
    const agent = await started(node, api, listener());
    await agent.waitFor(updated(0, 200));
    const from = agent.lines.length;
    const start = performance.now();
    await api.churn({ ...service, events: 1000, perSecond: 1000 });
    const seconds = Math.max(1, (performance.now() - start) / 1000);
    await pause(300);
    const swaps = agent.lines.slice(from).filter((line) => line.includes('updated tc_ebpf downstream set'));
    expect(swaps.length).toBeLessThanOrEqual(Math.ceil(20 * seconds) + 1);
    expect(swaps.at(-1)).toMatch(updated(0, 200));
  });

  test('three tenants, one forbidden: the two others forward, and the third is said to wait', async () => {
    const { client, node, pods, api } = await built(2);
    for (const [index, tenant] of ['tenant-a', 'tenant-b', 'tenant-c'].entries()) {
      await api.apply(tenant, slice('a', pods.slice(index, index + 1)));
    }
    await api.deny('list', 'tenant-c');
    const agent = await started(node, api, listener(0, 'tenant-a'), listener(1, 'tenant-b'), listener(2, 'tenant-c'));
    await Promise.all([agent.waitFor(updated(0, 1)), agent.waitFor(updated(1, 1)), agent.waitFor(/forbidden/)]);
    expect(await agent.get('/readyz')).toMatchObject({ status: 503, body: 'not ready: endpoints(listener-2)\n' });
    const at = await receivers(pods);
    const first = await send(client, { to: '10.0.0.1:9000', count: 100, cpu: 0 });
    const second = await send(client, { to: '10.0.0.1:9001', count: 50, cpu: 0 });
    const report = await at.report({ expect: 150 });
    expect(union(report, first)).toEqual({ received: 100, missing: [], duplicated: [] });
    expect(union(report, second)).toEqual({ received: 50, missing: [], duplicated: [] });
    expect(report.receivers.map(({ count }) => count)).toEqual([100, 50]);
  });

  test('a Service without slices: endpoints=0, and after 5 s the three causes', async () => {
    const { node, api } = await built(1);
    const agent = await started(node, api, listener());
    await agent.waitFor(updated(0, 0));
    const line = await agent.waitFor(/EndpointSlice not found/, { timeout: 8000 });
    expect(line).toMatch(
      /wrong namespace.*Service doesn't exist.*missing RBAC.*namespace="logging" service="receivers"/,
    );
  });

  test('the API server is absent at start: it waits, says so, and begins by itself', async () => {
    const { client, node, pods, api } = await built(1);
    await api.apply(NS, slice('a', pods));
    await api.stop();
    const agent = await started(node, api, listener());
    await agent.waitFor(/failed to list EndpointSlices.*no endpoints are known yet/);
    await expect
      .poll(() => agent.get('/readyz').catch(() => undefined))
      .toMatchObject({
        status: 503,
        body: 'not ready: endpoints(listener-0)\n',
      });
    await api.start();
    await agent.waitFor(updated(0, 1), { timeout: 10_000 });
    const at = await receivers(pods);
    const sent = await send(client, { to: '10.0.0.1:9000', count: 10, cpu: 0 });
    expect(union(await at.report({ expect: 10 }), sent)).toEqual({ received: 10, missing: [], duplicated: [] });
  });
});
