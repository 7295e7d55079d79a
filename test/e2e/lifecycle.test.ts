/** Start, stop, crash, and machines that do not fit. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { startAgent } from '../../lab/agent.ts';
import { loses } from '../../lab/books.ts';
import { programOfOtherAbi } from '../../lab/builds.ts';
import type { Topology } from '../../lab/host.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient, pause, until } from '../../lab/patience.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, send } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';

const obstacle = labObstacle();
const ATTACHED = /attached TC eBPF program to ingress interface="eth0"/;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function built<T extends Topology>(topology: T): T {
  cleanUps.push(() => topology.close());
  return topology;
}

const filters = (node: { namespace: { run(command: string, args: string[]): string } }) =>
  node.namespace.run('tc', ['filter', 'show', 'dev', 'eth0', 'ingress']);
const base = { bind: '0.0.0.0:9000', interface: 'eth0' };

describe.skipIf(obstacle)(titled("the agent's life", obstacle), () => {
  test('its log and tc show what the guide says, SIGTERM leaves the program at work, and detach ends that', async () => {
    const { node, pods } = built(singleNode());
    const agent = startAgent(node, config(listener({ ...base, downstream: pods })));
    await agent.waitFor(/INFO updated tc_ebpf downstream set listener_id=0 endpoints=3$/);
    await agent.waitFor(/INFO attached TC eBPF program to ingress interface="eth0"$/);
    expect(filters(node)).toMatch(/filter protocol all pref 49152 bpf .* name udp_fanout /);
    const { body } = await agent.get('/metrics');
    for (const name of ['received', 'forwarded', 'dropped'])
      expect(body).toMatch(`\nudp_fanout_packets_${name}_total{`);
    for (const name of ['active', 'health']) expect(body).toMatch(`\nudp_fanout_downstream_${name}{`);
    const { code, ms } = await agent.stop();
    expect(code).toBe(0);
    expect(ms).toBeLessThan(patient(2000));
    expect(filters(node)).toContain('name udp_fanout');
    node.namespace.run(process.execPath, ['dist/udp-fanout.js', 'detach']);
    expect(filters(node)).toBe('');
    // The qdisc may be somebody else's by now.
    expect(node.namespace.run('tc', ['qdisc', 'show', 'dev', 'eth0'])).toContain('clsact');
  });

  test.each([
    ['as root', []],
    ['without any capability', ['setpriv', '--bounding-set=-all']],
  ] as const)('a bad config at start, %s, leaves what is attached at work, and says so', async (_, under) => {
    const { client, node, pods } = built(singleNode());
    const first = startAgent(node, config(listener({ ...base, downstream: pods })));
    await first.waitFor(ATTACHED);
    const bad = config(listener({ ...base, bind: '0.0.0.0:0', downstream: pods }));
    // One that runs has not left anything.
    const beside = startAgent(node, bad, { under });
    expect((await beside.ended).code).toBe(2);
    expect(beside.lines).toEqual([expect.stringMatching(/config.yaml:\d+:\d+: /)]);
    await first.stop();
    const second = startAgent(node, bad, { under });
    expect((await second.ended).code).toBe(2);
    expect(second.lines).toEqual([
      expect.stringMatching(/config.yaml:\d+:\d+: /),
      'the program that is attached to lo, eth0 goes on by the config before, until its lease runs out, or `udp-fanout detach` removes it',
    ]);
    expect(filters(node)).toContain('name udp_fanout');
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sent = await send(client, { to: '10.0.0.1:9000', count: 300, rate: 10_000 });
    expect(union(await at.report({ expect: 300 }), sent)).toEqual({ received: 300, missing: [], duplicated: [] });
  });

  test.each([
    ['SIGUSR1', /INFO the agent does nothing by this signal signal="SIGUSR1"$/],
    ['SIGUSR2', /INFO the agent does nothing by this signal signal="SIGUSR2"$/],
    ['SIGHUP', /INFO config is as it was file=".*config.yaml"$/],
  ] as const)('%s opens no debugger and ends nothing: it is a line in the log', async (signal, line) => {
    const { client, node, pods } = built(singleNode());
    const userspace = { ...listener({ name: 'slow', bind: '0.0.0.0:9001', interface: 'eth0', downstream: pods }) };
    const agent = startAgent(
      node,
      config(listener({ ...base, downstream: pods }), { ...userspace, mode: 'userspace' } as typeof userspace),
    );
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    await agent.waitFor(/updated userspace downstream set/);
    const ports = () => node.namespace.run('ss', ['-Hltn']).match(/:\d+ /g);
    const before = ports();
    const from = agent.lines.length;
    agent.kill(signal);
    await agent.waitFor(line, { from });
    await pause(300);
    expect(ports()).toEqual(before);
    expect(agent.lines.filter((one) => one.includes('Debugger'))).toEqual([]);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sent = await send(client, { to: '10.0.0.1:9001', count: 300, rate: 10_000 });
    expect(union(await at.report({ expect: 300 }), sent)).toEqual({ received: 300, missing: [], duplicated: [] });
  });

  test('a second agent on the node is turned away', async () => {
    const { node, pods } = built(singleNode());
    const first = startAgent(node, config(listener({ ...base, downstream: pods })));
    cleanUps.push(() => first.stop());
    await first.waitFor(ATTACHED);
    const second = startAgent(node, config(listener({ ...base, downstream: pods })));
    expect((await second.ended).code).toBe(1);
    expect(second.lines.at(-1)).toMatch(
      /ERROR another udp-fanout agent runs in this network namespace: stop it first .*, or take over .* with --takeover$/,
    );
    expect(filters(node).match(/name udp_fanout/g)).toHaveLength(1);
  });

  test('an interface that comes later is taken up, one that goes and returns too', async () => {
    const { node, pods } = built(singleNode());
    const late = listener({ name: 'late', bind: '0.0.0.0:9001', interface: 'late0', downstream: pods });
    const agent = startAgent(node, config(listener({ ...base, downstream: pods }), late));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/ERROR interface not found: late0 \(there are: lo, eth0, /);
    await agent.waitFor(ATTACHED);
    expect(await agent.get('/readyz')).toMatchObject({ status: 503, body: 'not ready: attachment(late0)\n' });
    expect((await agent.get('/healthz')).status).toBe(200);
    for (let times = 0; times < 2; times++) {
      const from = agent.lines.length;
      node.namespace.ip(['link add late0 type veth peer late1', 'link set late0 up']);
      await agent.waitFor(/attached TC eBPF program to ingress interface="late0"/, { from });
      expect(await agent.get('/readyz')).toMatchObject({ status: 200, body: 'ok\n' });
      node.namespace.ip(['link del late0']);
      await agent.waitFor(/ERROR interface not found: late0/, { from });
    }
    expect(await agent.get('/readyz')).toMatchObject({ status: 503 });
  });

  test('one interface that is missing among several is a remark', async () => {
    const { node, pods } = built(singleNode());
    const { interface: nic, ...rest } = listener({ ...base, downstream: pods });
    const agent = startAgent(node, config({ ...rest, interfaces: [nic, 'eth9'] } as never));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    const ready = await agent.get('/readyz');
    expect(ready.status).toBe(200);
    expect(ready.body).toMatch(/^ok\nattachment\(eth9\): interface not found: eth9 \(there are: lo, eth0, /);
    expect((await agent.metrics()).get('udp_fanout_ready')).toBe(1);
  });

  test('an address that the node gets later is the wildcard bind’s too', async () => {
    const { client, node, pods } = built(singleNode());
    const agent = startAgent(node, config(listener({ ...base, downstream: pods })));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    node.namespace.ip(['addr add 10.0.0.77/24 dev eth0']);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    // The agent hears of it within 100 ms; until then the node itself answers with an ICMP error.
    await until('a datagram to the new address arrives', async () => {
      loses('it is sent before the agent has noticed the address', { atMost: 1 });
      await send(client, { to: '10.0.0.77:9000', count: 1 });
      return (await at.peek()).count > 0;
    });
    await at.report();
    const sent = await send(client, { to: '10.0.0.77:9000', count: 300 });
    expect(union(await at.report({ expect: 300 }), sent)).toEqual({ received: 300, missing: [], duplicated: [] });
  });
});

describe.skipIf(obstacle)(titled('a machine that does not fit', obstacle), () => {
  /** Starts the agent, which must end by itself; what it said last, and that nothing of it stays. */
  async function refused(arrange: Parameters<typeof startAgent>[1], options: Parameters<typeof startAgent>[2] = {}) {
    const { node } = built(singleNode({ pods: 1 }));
    const agent = startAgent(node, arrange, options);
    const { code } = await agent.ended;
    expect(filters(node)).toBe('');
    const { lines } = agent;
    expect(lines.filter((line) => /^\s+at /.test(line))).toEqual([]);
    return { code, lines, last: lines.at(-1) ?? '' };
  }
  const to = ['10.0.1.10:9000'];

  test('no interface of that name anywhere', async () => {
    const { code, last } = await refused(config(listener({ ...base, interface: 'eth9', downstream: to })));
    expect(code).toBe(1);
    expect(last).toMatch(/ERROR interface not found: eth9 \(there are: lo, eth0, veth10\)$/);
  });

  test('no BPF object', async () => {
    const args = ['--ebpf-program', '/nowhere/udp_fanout.bpf.o'];
    const { code, last } = await refused(config(listener({ ...base, downstream: to })), { args });
    expect(code).toBe(1);
    expect(last).toMatch(/ERROR BPF object "\/nowhere\/udp_fanout.bpf.o" not found: build it with npm run build/);
  });

  test('a BPF object that is none', async () => {
    const args = ['--ebpf-program', 'package.json'];
    const { code, last } = await refused(config(listener({ ...base, downstream: to })), { args });
    expect(code).toBe(1);
    expect(last).toMatch(/ERROR BPF object "package.json" cannot be read: .* build it with npm run build/);
  });

  const noCompiler = lacking('clang');
  test.skipIf(noCompiler)(titled('a BPF object of another version', noCompiler), async () => {
    const folder = mkdtempSync(join(tmpdir(), 'udp-fanout-'));
    cleanUps.push(() => rmSync(folder, { recursive: true }));
    const args = ['--ebpf-program', programOfOtherAbi(folder)];
    const { code, last } = await refused(config(listener({ ...base, downstream: to })), { args });
    expect(code).toBe(1);
    expect(last).toMatch(/ERROR BPF object ".*" is of version 77, this agent needs version \d+: build both together$/);
  });

  test('metrics on every address of both families', async () => {
    const { node, pods } = built(singleNode({ pods: 1 }));
    const served = {
      ...config(listener({ ...base, downstream: pods })),
      metrics: { enabled: true, bind: '[::]:9090' },
    };
    const agent = startAgent(node, served);
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/INFO serving metrics bind="\[::\]:9090" path="\/metrics"$/);
    expect((await agent.get('/healthz')).status).toBe(200);
  });

  test('metrics port taken', async () => {
    const { node, pods } = built(singleNode({ pods: 1 }));
    const script = "require('net').createServer().listen(9090, () => console.log('taken'))";
    const squatter = node.namespace.spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(squatter.stdout!, 'data');
    const agent = startAgent(node, config(listener({ ...base, downstream: pods })));
    expect((await agent.ended).code).toBe(1);
    expect(agent.lines.at(-1)).toMatch(
      /ERROR failed to serve metrics on "127.0.0.1:9090": the port is taken by another process: set metrics.bind to a free one$/,
    );
    expect(filters(node)).toBe('');
  });

  const all = ['bpf', 'net_admin', 'perfmon', 'net_raw'];
  test.each([
    ['bpf', 'BPF'],
    ['net_admin', 'NET_ADMIN'],
  ])('no capability %s', async (missing, name) => {
    const kept = all.filter((one) => one !== missing).map((one) => `+${one}`);
    const under = ['setpriv', '--bounding-set', ['-all', ...kept].join(',')];
    const { code, last } = await refused(config(listener({ ...base, downstream: to })), { under });
    expect(code).toBe(1);
    expect(last).toContain(
      `ERROR failed to attach TC program: permission denied: missing capability ${name}: add it under securityContext.capabilities.add`,
    );
  });

  test('the capabilities of the manifest are enough', async () => {
    const { node, pods } = built(singleNode({ pods: 1 }));
    const under = ['setpriv', '--bounding-set', ['-all', ...all.map((one) => `+${one}`)].join(',')];
    const agent = startAgent(node, config(listener({ ...base, downstream: pods })), { under });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    expect(filters(node)).toContain('name udp_fanout');
  });

  const noOverlay = lacking('vxlan');
  test.skipIf(noOverlay)(titled('a listener’s port that a vxlan uses', noOverlay), async () => {
    const { node, pods } = built(singleNode());
    node.namespace.ip(['link add flannel.1 type vxlan id 1 dstport 8472 dev eth0']);
    const hijack = listener({ name: 'hijack', bind: '0.0.0.0:8472', interface: 'eth0', downstream: pods });
    const agent = startAgent(node, config(hijack, listener({ ...base, downstream: pods })));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    await agent.waitFor(/ERROR listener "hijack": UDP port 8472 belongs to vxlan interface "flannel.1"/);
    expect(await agent.get('/readyz')).toMatchObject({ status: 503, body: 'not ready: listener(hijack)\n' });
  });

  test('a config with mistakes is refused whole, with exit code 2', async () => {
    const broken = config(
      listener({ ...base, downstream: to }),
      listener({ ...base, bind: '0.0.0.0:0', downstream: [] }),
    );
    const { code, lines } = await refused(broken);
    expect(code).toBe(2);
    expect(lines.every((line) => /config.yaml:\d+:\d+: /.test(line))).toBe(true);
    expect(lines.length).toBeGreaterThanOrEqual(3);
  });
});
