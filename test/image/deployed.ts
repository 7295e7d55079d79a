/** The image on a node of the lab: as the pod of the manifest, and as a container on a machine without Kubernetes. */
import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { RemoteApi } from '../../lab/api/remote.ts';
import { aSlice } from '../../lab/api/slices.ts';
import { issueCertificate } from '../../lab/api/tls.ts';
import { type SingleNode, singleNode } from '../../lab/single-node.ts';
import { receive, send, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { asInPod, container, login, sampleConfig } from '../e2e/pod.ts';
import type { Check } from './run.ts';

const PORT = 5514;
const SLICE = { service: 'vector-aggregators', ports: [{ name: '', protocol: 'UDP', port: PORT }] };
/** The image's own command, whatever else a starter of agents appends. */
const COMMAND = ['sh', '-c', 'exec udp-fanout --config /etc/udp-fanout/config.yaml'];

export interface Deployed {
  readonly checks: readonly Check[];
  close(): Promise<void>;
}

/** As k8s/daemonset.yaml deploys it. */
export async function inPod(root: string): Promise<Deployed> {
  const lab = singleNode();
  const tls = issueCertificate();
  const api = await RemoteApi.start(lab.node, { tls });
  await api.apply(
    'logging',
    aSlice(
      'vector-aggregators-x',
      lab.pods.map(({ ip }) => ip),
      SLICE,
    ),
  );
  const { env, run } = login(lab.node, api, tls.ca);
  const agent = start(lab, root, sampleConfig, { env, run });
  const exec = (...command: string[]) => {
    const [first = '', ...rest] = [...asInPod({ root }), ...command];
    return lab.node.namespace.run(first, rest);
  };
  const shows = (command: string, pattern: RegExp): Check => [
    `kubectl exec ... -- ${command}`,
    () => assert.match(exec(...command.split(' ')), pattern),
  ];
  return {
    checks: [
      [
        'its log has the lines of the guide',
        async () => {
          await agent.waitFor(/ INFO updated tc_ebpf downstream set listener_id=0 endpoints=3$/);
          await agent.waitFor(/ INFO attached TC eBPF program to ingress interface="eth0"$/);
        },
      ],
      [
        'it is alive and ready',
        async () => {
          for (const { httpGet } of [container.livenessProbe, container.readinessProbe]) {
            assert.equal((await agent.get(httpGet.path)).status, 200);
          }
        },
      ],
      ['3000 datagrams, each to one receiver, in turn', () => forwards(lab, PORT)],
      ['its health checks are answered', () => probed(agent)],
      shows('ip link show', /eth0/),
      shows('ip link show eth0', /mtu 1500/),
      shows('tc filter show dev eth0 ingress', /filter protocol all pref 49152 bpf .* name udp_fanout /),
      shows('bpftool map dump name STATS', /"pkts_forwarded": \d+[\s\S]*"pkts_dropped": \d+/),
      shows('uname -r', /^\d+\.\d+/),
      shows('ping -c 1 -W 2 10.0.1.10', / 0% packet loss/),
      shows('udp-fanout --version', /^\d+\.\d+\.\d+$/m),
      [
        'kubectl exec ... -- tcpdump -i eth0 udp port 5514 -n -c 5',
        async () => {
          const sending = await startSending(lab.client, { to: `10.0.0.1:${PORT}`, rate: 200 });
          await sleep(100);
          const seen = exec('timeout', '10', 'tcpdump', '-i', 'eth0', 'udp', 'port', String(PORT), '-n', '-c', '5');
          await sending.stop();
          assert.equal(seen.trim().split('\n').length, 5);
          assert.match(seen, / IP 10\.0\.0\.9\.\d+ > 10\.0\.0\.1\.5514: UDP/);
        },
      ],
      ['nothing can be written', () => assert.throws(() => exec('touch', '/opt/x'), /Read-only file system/)],
      [
        'it stops within its grace, its program forwards on, and udp-fanout detach ends that',
        async () => {
          assert.equal((await agent.stop(10_000)).code, 0);
          await forwards(lab, PORT);
          assert.match(exec('udp-fanout', 'detach'), /^detached from interface "eth0"$/m);
          assert.equal(exec('tc', 'filter', 'show', 'dev', 'eth0', 'ingress'), '');
        },
      ],
    ],
    close: async () => {
      await agent.stop();
      api.close();
      lab.close();
    },
  };
}

/** `docker run --network host --read-only --cap-drop ALL --cap-add ...` with a list of receivers. */
export async function alone(root: string): Promise<Deployed> {
  const lab = singleNode();
  const downstream = lab.pods.map(({ address }) => ({ address }));
  const listener = { name: 'alone', bind: '0.0.0.0:9000', interface: 'eth0', downstream };
  const agent = start(lab, root, JSON.stringify({ listeners: [listener] }), {});
  return {
    checks: [
      [
        'without Kubernetes: a static config on the host network forwards',
        async () => {
          await agent.waitFor(/attached TC eBPF program to ingress interface="eth0"/);
          await forwards(lab, 9000);
        },
      ],
    ],
    close: async () => {
      await agent.stop();
      lab.close();
    },
  };
}

interface Start {
  readonly env?: Readonly<Record<string, string>>;
  readonly run?: string;
}

function start({ node }: SingleNode, root: string, config: string, { env = {}, run }: Start): Agent {
  const directory = mkdtempSync(join(node.namespace.directory, 'config-'));
  writeFileSync(join(directory, 'config.yaml'), config);
  const under = [...asInPod({ root, config: directory, ...(run && { run }) }), ...COMMAND];
  return startAgent(node, config, { env: { ...env, PATH: '/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' }, under });
}

async function forwards({ client, pods }: SingleNode, port: number): Promise<void> {
  await using at = await receive(pods, { port });
  const sent = await send(client, { to: `10.0.0.1:${port}`, count: 3000, cpu: 0 });
  const report = await at.report({ expect: sent.count });
  assert.deepEqual(union(report, sent), { received: 3000, missing: [], duplicated: [] });
  assert.deepEqual(
    report.receivers.map(({ count }) => count),
    [1000, 1000, 1000],
  );
}

async function probed(agent: Agent): Promise<void> {
  const answered = async () => (await agent.metrics()).get('udp_fanout_health_probes_total{outcome="answered"}') ?? 0;
  const deadline = Date.now() + 12_000;
  while ((await answered()) < 3 && Date.now() < deadline) await sleep(200);
  assert.ok((await answered()) >= 3, agent.lines.join('\n'));
}
