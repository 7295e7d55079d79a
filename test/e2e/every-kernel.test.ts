/**
 * What the real agent has to do on every kernel, in one lab and with few agents, so that it is quick where a machine is
 * emulated: `npm run test:kernels` runs it on Debian's kernels. Each part has closer tests in the other files.
 */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { type DualStack, dualStack } from '../../lab/dual-stack.ts';
import type { Pod } from '../../lab/host.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { until } from '../../lab/patience.ts';
import { receive, type SendOptions, send, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle();
const noVlan = lacking('vlan');
const PROGRAM = join(import.meta.dirname, '../../dist/udp-fanout.js');
const ATTACHED = /attached TC eBPF program to ingress interface="eth0"/;
const VIP = '10.9.9.9';
const CAPABILITIES = ['bpf', 'net_admin', 'perfmon', 'net_raw'];

let lab: DualStack;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

interface Delivery extends Pick<SendOptions, 'size' | 'segments' | 'rate' | 'dontFragment'> {
  readonly to: string;
  readonly from: string;
  readonly count: number;
  readonly pods: readonly Pod[];
  /** What is left of the TTL; not looked at if absent. */
  readonly ttl?: number;
}

/** Sends over one CPU and expects every datagram once, evenly spread, whole, with its source. */
async function delivered({ pods, ttl, count, from, ...options }: Delivery): Promise<void> {
  const at = await receive(pods);
  try {
    const sent = await send(lab.client, { cpu: 0, rate: 20_000, ...options, from, count });
    expect(sent.count).toBe(count);
    const report = await at.report({ expect: count });
    expect(union(report, sent)).toEqual({ received: count, missing: [], duplicated: [] });
    expect(report.payloadErrors).toBe(0);
    expect(report.errors).toEqual({ InErrors: 0, InCsumErrors: 0, RcvbufErrors: 0, NoPorts: 0 });
    for (const receiver of report.receivers) {
      expect(Math.abs(receiver.count - count / pods.length)).toBeLessThanOrEqual(1);
      expect(receiver.sources).toEqual({ [from]: receiver.count });
      if (ttl !== undefined) expect(receiver.ttls).toEqual({ [ttl]: receiver.count });
    }
  } finally {
    at.close();
  }
}

const filters = () => lab.node.namespace.run('tc', ['filter', 'show', 'dev', 'eth0', 'ingress']);
const v4 = () => ({ to: '10.0.0.1:9000', from: '10.0.0.9:40000', pods: lab.pods });
const v6 = () => ({ to: '[fd00::1]:9006', from: '[fd00::9]:40000', pods: lab.pods6 });

/** Both families, a VIP on no interface and, where there are such, a VLAN's interface. */
function everyListener() {
  const on = { interface: 'eth0', downstream: lab.pods };
  return config(
    listener({ name: 'v4', bind: '0.0.0.0:9000', ...on }),
    listener({ name: 'v6', bind: '[::]:9006', interface: 'eth0', downstream: lab.pods6 }),
    listener({ name: 'vip', bind: `${VIP}:80`, ...on }),
    ...(noVlan ? [] : [listener({ name: 'vlan', bind: '0.0.0.0:9100', interface: 'eth0.100', downstream: lab.pods })]),
  );
}

const inMode = (mode: 'auto' | 'userspace', { listeners, ...rest }: ReturnType<typeof config>) => ({
  ...rest,
  listeners: listeners.map((one) => ({ ...one, mode, settings: { workers: 1, recv_buf_size: 32 << 20 } })),
});

describe.skipIf(obstacle)(titled('every kernel', obstacle), () => {
  beforeAll(() => {
    lab = dualStack({ vlan: !noVlan });
  });
  afterAll(() => lab?.close());

  describe('the kernel path', () => {
    let agent: Agent;
    beforeAll(async () => {
      agent = startAgent(lab.node, everyListener());
      await agent.waitFor(ATTACHED);
      if (!noVlan) await agent.waitFor(/attached TC eBPF program to ingress interface="eth0.100"/);
    });
    afterAll(() => agent?.stop());

    test('is attached as the guide shows it, and ready', async () => {
      expect(filters()).toMatch(/filter protocol all pref 49152 bpf .* name udp_fanout /);
      expect(await agent.get('/readyz')).toMatchObject({ status: 200 });
      expect(agent.lines.filter((line) => / (WARN|ERROR) /.test(line))).toEqual([]);
    });

    test.each([
      ['computed', false],
      ['left to the hardware', true],
    ] as const)('forwards both families, checksums %s', async (_, offload) => {
      lab.offload(offload);
      await delivered({ ...v4(), count: 3000, ttl: 63 });
      await delivered({ ...v6(), count: 3000, ttl: 63 });
    });

    test('forwards packets of many datagrams', async () => {
      lab.offload(true);
      const at = await receive(lab.pods);
      cleanUps.push(() => at.close());
      const sent = await send(lab.client, { to: '10.0.0.1:9000', count: 960, size: 200, segments: 32, cpu: 0 });
      expect(sent.count).toBe(960);
      expect(union(await at.report({ expect: 960 }), sent)).toEqual({ received: 960, missing: [], duplicated: [] });
    });

    test('keeps fragments together, in both families', async () => {
      await delivered({ ...v4(), count: 90, size: 4000, rate: 2000 });
      await delivered({ ...v6(), count: 90, size: 4000, rate: 2000 });
    });

    test('gets datagrams larger than the pods’ MTU there', async () => {
      const mtu = (bytes: number) => {
        lab.node.namespace.ip(lab.pods.map(({ hostInterface }) => `link set ${hostInterface} mtu ${bytes}`));
      };
      mtu(1400);
      cleanUps.push(() => mtu(1500));
      await delivered({ ...v4(), count: 90, size: 1450, rate: 2000, dontFragment: false });
    });

    test('takes what is for a VIP on no interface', async () => {
      await delivered({ ...v4(), to: `${VIP}:80`, count: 300 });
    });

    test.skipIf(noVlan)(titled('listens on a VLAN’s interface', noVlan), async () => {
      await delivered({ to: '10.100.0.1:9100', from: '10.100.0.9:40000', pods: lab.pods, count: 300, ttl: 63 });
    });

    test('leaves alone what is not a listener’s', async () => {
      const atNode = await receive([lab.node], { port: 9001 });
      const atPods = await receive(lab.pods);
      cleanUps.push(
        () => atNode.close(),
        () => atPods.close(),
      );
      await send(lab.client, { to: '10.0.0.1:9001', count: 100 });
      await send(lab.client, { to: lab.pods[1]!.address, count: 100 });
      expect((await atNode.report({ expect: 100 })).count).toBe(100);
      const { receivers } = await atPods.report({ expect: 100 });
      expect(receivers.map(({ count }) => count)).toEqual([0, 100, 0]);
    });

    test('counts what the receivers got, and bpftool reads it', async () => {
      const { received, forwarded, dropped } = await ledger(agent, 'v6', 6090);
      expect({ received, forwarded, dropped }).toEqual({ received: 6090, forwarded: 6090, dropped: {} });
      expect((await ledger(agent, 'v4', 3000 * 2 + 960 + 90 + 90)).dropped).toEqual({});
      expect(lab.node.namespace.run('bpftool', ['map', 'dump', 'name', 'STATS'])).toMatch(/"pkts_forwarded": 6090/);
    });

    test('is not interrupted by a crash and the next agent', async () => {
      const at = await receive(lab.pods);
      cleanUps.push(() => at.close());
      const sending = await startSending(lab.client, { to: '10.0.0.1:9000', rate: 1000, cpu: 0 });
      agent.kill('SIGKILL');
      await agent.ended;
      agent = startAgent(lab.node, everyListener());
      await agent.waitFor(ATTACHED);
      const sent = await sending.stop();
      expect(sent.count).toBeGreaterThan(100);
      const report = await at.report({ expect: sent.count });
      expect(union(report, sent)).toEqual({ received: sent.count, missing: [], duplicated: [] });
      expect(filters().match(/name udp_fanout/g)).toHaveLength(1);
    });

    test('stays at work after SIGTERM, and goes with detach', async () => {
      expect((await agent.stop()).code).toBe(0);
      expect(filters().match(/name udp_fanout/g)).toHaveLength(1);
      lab.node.namespace.run(process.execPath, ['dist/udp-fanout.js', 'detach']);
      expect(filters()).not.toContain('udp_fanout');
    });
  });

  test('userspace forwards both families with the source kept', async () => {
    const agent = startAgent(lab.node, inMode('userspace', everyListener()));
    cleanUps.push(() => agent.stop());
    await until('all listeners forward', () => agent.lines.filter((line) => /updated userspace/.test(line)).length > 2);
    await delivered({ ...v4(), count: 900, rate: 5000 });
    await delivered({ ...v6(), count: 900, rate: 5000 });
    expect((await ledger(agent, 'v4', 900)).forwarded).toBe(900);
  });

  test('auto falls back to userspace where the kernel path is refused, and says why once', async () => {
    const under = ['setpriv', '--bounding-set', '-all,+net_admin,+net_raw,+net_bind_service'];
    const agent = startAgent(lab.node, inMode('auto', everyListener()), { under });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/updated userspace downstream set listener_id=0 endpoints=3/);
    await delivered({ ...v4(), count: 300, rate: 5000 });
    expect(agent.lines.filter((line) => / WARN .*missing capability BPF/.test(line))).toHaveLength(1);
    expect(filters()).not.toContain('udp_fanout');
  });

  test('the capabilities of the manifest are enough', async () => {
    const under = ['setpriv', '--bounding-set', `-all,${CAPABILITIES.map((one) => `+${one}`).join(',')}`];
    const agent = startAgent(lab.node, everyListener(), { under });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    await delivered({ ...v4(), count: 300 });
  });

  test('ICMP takes a dead pod out and back', async () => {
    const [, dead] = lab.pods;
    const health = { interval_secs: 2, timeout_secs: 1 };
    const agent = startAgent(lab.node, { ...everyListener(), health });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    const active = async () => (await agent.metrics()).get('udp_fanout_downstream_active{listener="v4"}');
    const answers = (yes: boolean) => dead!.namespace.sysctl({ 'net/ipv4/icmp_echo_ignore_all': yes ? 0 : 1 });
    const answered = 'udp_fanout_health_probes_total{outcome="answered"}';
    await until('all pods answer', async () => ((await agent.metrics()).get(answered) ?? 0) >= 6, { limit: 10_000 });
    answers(false);
    await until('the dead pod is out', async () => (await active()) === 2, { limit: 10_000 });
    expect(agent.lines.some((line) => /health.*failed/.test(line))).toBe(true);
    const living = lab.pods.filter((pod) => pod !== dead);
    await delivered({ ...v4(), pods: living, count: 300 });
    answers(true);
    await until('the pod is back', async () => (await active()) === 3, { limit: 15_000 });
    await delivered({ ...v4(), count: 300 });
  });

  test('doctor finds nothing wrong', () => {
    const file = join(mkdtempSync(join(lab.node.namespace.directory, 'doctor-')), 'config.yaml');
    writeFileSync(file, JSON.stringify(everyListener()));
    const report = lab.node.namespace.run(process.execPath, [PROGRAM, 'doctor', '--config', file, '--json']);
    const { ok, findings } = JSON.parse(report) as { ok: boolean; findings: { level: string; what: string }[] };
    expect(findings.filter(({ level }) => level === 'fail')).toEqual([]);
    expect(findings.length).toBeGreaterThan(5);
    expect(ok).toBe(true);
  });
});
