/** The agent as k8s/daemonset.yaml runs it: its config, its capabilities, a read-only root, a service account. */
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { RemoteApi } from '../../lab/api/remote.ts';
import { aSlice } from '../../lab/api/slices.ts';
import { issueCertificate } from '../../lab/api/tls.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient } from '../../lab/patience.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, send } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { ledger } from './conservation.ts';
import { asInPod, capabilitiesWithoutSysAdmin, container, detaching, login, sampleConfig } from './pod.ts';

const obstacle = labObstacle();
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const PROGRAM = join(import.meta.dirname, '../../dist/udp-fanout.js');
const PORT = 5514;
const SERVICE = { service: 'vector-aggregators', ports: [{ name: '', protocol: 'UDP', port: PORT }] };

/** The pod on a node whose API server has these many receivers. */
async function pod(receivers: number, capabilities = container.securityContext.capabilities.add) {
  const lab = singleNode();
  cleanUps.push(() => lab.close());
  const tls = issueCertificate();
  const api = await RemoteApi.start(lab.node, { tls });
  cleanUps.push(() => api.close());
  const pods = lab.pods.slice(0, receivers);
  const addresses = pods.map(({ ip }) => ip);
  if (receivers > 0) await api.apply('logging', aSlice('vector-aggregators-x', addresses, SERVICE));
  const { env, run } = login(lab.node, api, tls.ca);
  const agent = startAgent(lab.node, sampleConfig, { env, under: asInPod({ capabilities, run }) });
  cleanUps.push(() => agent.stop());
  /** As `kubectl exec` would. */
  const exec = (command: string, ...args: string[]) => {
    const [first = '', ...rest] = [...asInPod({ capabilities }), command, ...args];
    return lab.node.namespace.run(first, rest);
  };
  return { ...lab, pods, agent, exec };
}

async function probes(agent: Agent): Promise<readonly number[]> {
  const paths = [container.livenessProbe.httpGet.path, container.readinessProbe.httpGet.path];
  return Promise.all(paths.map(async (path) => (await agent.get(path)).status));
}

describe.skipIf(obstacle)(titled('the pod of the manifest', obstacle), () => {
  test('forwards, shows what the guide says, and stops in time', async () => {
    const { agent, client, pods, exec } = await pod(3);
    await agent.waitFor(/ INFO updated tc_ebpf downstream set listener_id=0 endpoints=3$/);
    await agent.waitFor(/ INFO attached TC eBPF program to ingress interface="eth0"$/);
    expect(await probes(agent)).toEqual([200, 200]);

    const at = await receive(pods, { port: PORT });
    cleanUps.push(() => at.close());
    const sent = await send(client, { to: `10.0.0.1:${PORT}`, count: 300, cpu: 0 });
    const report = await at.report({ expect: 300 });
    expect(union(report, sent)).toEqual({ received: 300, missing: [], duplicated: [] });
    expect(report.receivers.map(({ count }) => count)).toEqual([100, 100, 100]);
    expect(await ledger(agent, 'syslog', 300)).toMatchObject({ forwarded: 300 });

    expect(exec('ip', 'link', 'show')).toContain('eth0');
    expect(exec('tc', 'filter', 'show', 'dev', 'eth0', 'ingress')).toMatch(
      /filter protocol all pref 49152 bpf .* name udp_fanout /,
    );
    expect(exec('bpftool', 'map', 'dump', 'name', 'STATS')).toMatch(/"pkts_forwarded": \d+[\s\S]*"pkts_dropped": \d+/);
    expect(() => exec('touch', '/etc/written', '/var/written')).toThrow(/Read-only file system/);
    const { code, ms } = await agent.stop();
    expect(code).toBe(0);
    expect(ms).toBeLessThan(patient(10_000));
  });

  test('leaves a program that the pods of k8s/detach remove', async () => {
    const { agent, node } = await pod(3);
    await agent.waitFor(/ INFO attached TC eBPF program to ingress interface="eth0"$/);
    await agent.stop();
    const { args, capabilities } = detaching();
    const [first = '', ...rest] = [...asInPod({ capabilities }), process.execPath, PROGRAM, ...args];
    expect(node.namespace.run(first, rest)).toMatch(/^detached from interface "eth0"$/m);
    const left = [
      ['eth0', 'ingress'],
      ['lo', 'egress'],
    ].map(([nic = '', side = '']) => node.namespace.run('tc', ['filter', 'show', 'dev', nic, side]));
    expect(left).toEqual(['', '']);
    // On a node that has none it is done at once.
    expect(node.namespace.run(first, rest)).toBe('nothing of udp-fanout is attached on this host\n');
  });

  test('is ready and attached where there is no receiver yet', async () => {
    const { agent } = await pod(0);
    await agent.waitFor(/ INFO updated tc_ebpf downstream set listener_id=0 endpoints=0$/);
    await agent.waitFor(/ INFO attached TC eBPF program to ingress interface="eth0"$/);
    expect(await probes(agent)).toEqual([200, 200]);
  });

  test('does without SYS_ADMIN; tc and bpftool in the pod then know less', async () => {
    const { agent, client, pods, exec } = await pod(3, capabilitiesWithoutSysAdmin());
    await agent.waitFor(/attached TC eBPF program to ingress interface="eth0"/);
    const at = await receive(pods, { port: PORT });
    cleanUps.push(() => at.close());
    const sent = await send(client, { to: `10.0.0.1:${PORT}`, count: 300, cpu: 0 });
    expect(union(await at.report({ expect: 300 }), sent)).toEqual({ received: 300, missing: [], duplicated: [] });
    const shown = exec('tc', 'filter', 'show', 'dev', 'eth0', 'ingress');
    expect(shown).toMatch(/filter protocol all pref 49152 bpf .* udp_fanout:\[\d+\] /);
    expect(shown).not.toContain('name udp_fanout');
    expect(() => exec('bpftool', 'map', 'dump', 'name', 'STATS')).toThrow(/Operation not permitted/);
  });
});
