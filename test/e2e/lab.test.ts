/** The lab itself: what it builds works by plain kernel forwarding, the agent can be run in it, and nothing stays. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, writeFileSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { startAgent } from '../../lab/agent.ts';
import { loses } from '../../lab/books.ts';
import { calicoBgp } from '../../lab/calico-bgp.ts';
import type { Topology } from '../../lab/host.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { metallbVip } from '../../lab/metallb-vip.ts';
import { patient, until } from '../../lab/patience.ts';
import { startTime } from '../../lab/processes.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, type Sent, send } from '../../lab/traffic.ts';
import { twoVips } from '../../lab/two-vips.ts';
import { union } from '../../lab/union.ts';
import { capture } from '../../lab/wire.ts';

const obstacle = labObstacle();
const noOverlay = lacking('vxlan');
const title = (text: string) => titled(text, obstacle);
const NO_ERRORS = { InErrors: 0, InCsumErrors: 0, RcvbufErrors: 0, NoPorts: 0 };
const exactly = (sent: Sent) => ({ received: sent.count, missing: [], duplicated: [] });

let open: Topology[] = [];

function hold<T extends Topology>(topology: T): T {
  open.push(topology);
  return topology;
}

afterEach(() => {
  for (const topology of open) topology.close();
  open = [];
});

describe.skipIf(obstacle)(title('topologies'), () => {
  it.each(['routed', 'bridged'] as const)(
    'single node, %s: the client reaches every pod through the node',
    async (wiring) => {
      const { client, pods } = hold(singleNode({ wiring }));
      const receivers = await receive(pods);
      for (const [index, pod] of pods.entries()) {
        const sent = await send(client, { to: pod.address, from: '10.0.0.9:40000', count: 300, size: 200 });
        const report = await receivers.report({ expect: 300 });
        expect(union(report, sent)).toEqual(exactly(sent));
        const { name, sources, ttls, errors } = report.receivers[index]!;
        expect({ name, sources, ttls, errors }).toEqual({
          name: pod.name,
          sources: { '10.0.0.9:40000': 300 },
          ttls: { 63: 300 },
          errors: NO_ERRORS,
        });
      }
    },
  );

  it('single node: pods come and go', async () => {
    const { client, node, pods, addPod, removePod } = hold(singleNode({ pods: 1 }));
    const added = addPod();
    const receivers = await receive([added]);
    const sent = await send(client, { to: '10.0.1.11:9000', count: 100 });
    expect(union(await receivers.report({ expect: 100 }), sent)).toEqual(exactly(sent));
    removePod(added);
    expect(await receivers.report()).toMatchObject({ count: 0, errors: NO_ERRORS });
    expect(pods.map(({ address }) => address)).toEqual(['10.0.1.10:9000']);
    expect(node.namespace.interfaces().filter((name) => name.startsWith('veth'))).toEqual(['veth10']);
  });

  it.skipIf(noOverlay)(
    titled(
      'MetalLB VIP: node vm2 reaches the pod on vm1 through the vxlan, and takes what is sent to the VIP',
      noOverlay,
    ),
    async () => {
      const { client, vm1, vm2, pods, vip } = hold(metallbVip());
      loses('no agent takes what is for the VIP', { atMost: 10 });
      const receivers = await receive(pods);
      const overlay = capture(vm1.namespace, 'ens3', ({ udp }) => udp?.dport === 8472);
      const sent = await send(vm2, { to: pods[2].address, count: 100 });
      const report = await receivers.report({ expect: 100 });
      expect(union(report, sent)).toEqual(exactly(sent));
      expect(report.receivers[2]!.count).toBe(100);
      expect(await overlay.frames({ expect: 100 })).toHaveLength(100);
      overlay.close();

      using frames = capture(vm2.namespace, 'ens3.100', ({ ip }) => ip?.dst === vip.ip);
      await send(client, { to: vip.address, from: '10.123.123.4:40000', count: 10 });
      const [first] = await frames.frames({ expect: 10 });
      expect(first).toMatchObject({ dmac: vm2.mac, ip: { ttl: 64 }, udp: { dport: 80, checksum: 'valid' } });
    },
  );

  it.skipIf(noOverlay)(
    titled('MetalLB VIP: ipForward 0 is for the node that takes the VIP, not for the other', noOverlay),
    () => {
      const { vm1, vm2 } = hold(metallbVip({ ipForward: 0 }));
      const forwarding = [vm1, vm2].map(({ namespace }) => namespace.counters().get('IpForwarding'));
      // RFC 1213: 1 forwards, 2 does not.
      expect(forwarding).toEqual([1, 2]);
    },
  );

  it.skipIf(noOverlay)(
    titled('two VIPs: pods on three nodes, and vm2 takes what is sent to either VIP', noOverlay),
    async () => {
      const { client, vm2, pods, first, second, unrelated } = hold(twoVips());
      loses('no agent takes what is for the VIPs', { atMost: 3 });
      expect(first.pods.map(({ ip }) => ip).sort()).toEqual(['10.42.0.37', '10.42.1.35']);
      expect(second.pods.map(({ ip }) => ip)).toEqual(['10.42.2.36']);
      const receivers = await receive(pods);
      const runs = [];
      for (const pod of pods) runs.push(await send(vm2, { to: pod.address, count: 50 }));
      const report = await receivers.report({ expect: 150 });
      expect(report.receivers.map(({ count }) => count)).toEqual([50, 50, 50]);
      for (const sent of runs) expect(union(report, sent)).toEqual(exactly(sent));
      using frames = capture(vm2.namespace, 'ens3.100', ({ udp }) => udp?.dport === 80);
      for (const ip of [first.ip, second.ip, unrelated]) await send(client, { to: `${ip}:80`, count: 1 });
      expect((await frames.frames({ expect: 3 })).filter(({ direction }) => direction === 'in')).toHaveLength(3);
    },
  );

  it.each(['global', 'link-local'] as const)(
    'Calico and BGP with %s next hops: both pods are reached',
    async (nextHop) => {
      const { client, a, pods } = hold(calicoBgp({ nextHop }));
      const receivers = await receive(pods);
      for (const pod of pods) {
        const sent = await send(client, { to: pod.address, from: `[${client.ip}]:40000`, count: 100 });
        const report = await receivers.report({ expect: 100 });
        expect(union(report, sent)).toEqual(exactly(sent));
        expect(report.receivers[pods.indexOf(pod)]).toMatchObject({
          sources: { '[2001:a61:35b3:1::9]:40000': 100 },
          ttls: { 62: 100 },
        });
      }
      const across = await send(a, { to: pods[1].address, count: 100 });
      expect(union(await receivers.report({ expect: 100 }), across)).toEqual(exactly(across));
    },
  );

  it('Calico and BGP: the router spreads a VIP over both nodes, before and after its prefix has changed', async () => {
    const { client, a, b, vips } = hold(calicoBgp());
    for (const vip of vips) {
      const taps = [a, b].map(({ namespace, nic }) => capture(namespace, nic, ({ ip }) => ip?.dst === vip));
      await send(client, { to: `[${vip}]:5514`, from: `[${client.ip}]:40000`, streams: 32, count: 320 });
      const counts = [0, 0];
      const sum = async () => {
        for (const [at, tap] of taps.entries()) counts[at]! += (await tap.frames()).length;
        return counts[0]! + counts[1]! >= 320;
      };
      await until('320 frames at both nodes', sum);
      expect(counts[0]! + counts[1]!).toBe(320);
      expect(Math.min(...counts)).toBeGreaterThan(0);
    }
  });
});

describe.skipIf(obstacle)(title('the agent'), () => {
  // What the lab knows of the agent: a flag, log lines, HTTP, SIGTERM.
  const STAND_IN = `
    const { readFileSync } = require('node:fs');
    console.log('config ' + JSON.parse(readFileSync(process.argv[3], 'utf8')).greeting + ' ' + process.env.EXTRA);
    require('node:http').createServer((_, response) => response.end('# HELP x\\nx{a="b c"} 3\\ny 0\\n'))
      .listen(9090, () => console.log('INFO attached TC eBPF program to ingress interface="eth0"'));
    process.on('SIGTERM', () => { console.log('bye'); process.exit(0); });`;

  it('is started, awaited, asked and stopped inside the node', async () => {
    const { node } = hold(singleNode({ pods: 1 }));
    const program = join(node.namespace.directory, 'stand-in.cjs');
    writeFileSync(program, STAND_IN);
    const agent = startAgent(node, { greeting: 'hello' }, { program, env: { EXTRA: 'there' } });
    expect(await agent.waitFor(/attached TC eBPF/)).toContain('interface="eth0"');
    expect(agent.lines[0]).toBe('config hello there');
    expect(await agent.metrics()).toEqual(
      new Map([
        ['x{a="b c"}', 3],
        ['y', 0],
      ]),
    );
    await expect(agent.waitFor(/never said/, { timeout: 50 })).rejects.toThrow(
      /no line in \d+ ms.*config hello there/s,
    );
    const { code, ms } = await agent.stop();
    expect({ code, last: agent.lines.at(-1) }).toEqual({ code: 0, last: 'bye' });
    expect(ms).toBeLessThan(patient(2000));
    await expect(agent.waitFor(/never said/)).rejects.toThrow('the agent ended');
  });
});

describe.skipIf(obstacle)(title('what stays'), () => {
  const holders: ChildProcess[] = [];
  afterAll(() => {
    for (const holder of holders) holder.kill('SIGKILL');
  });

  /** A process of its own that builds a single node, runs something in it, and waits. */
  async function holder(): Promise<{ child: ChildProcess; id: string; inner: number }> {
    const script = `
      import { singleNode } from '${join(import.meta.dirname, '../../lab/single-node.ts')}';
      const { lab, node } = singleNode();
      node.namespace.directory;
      console.log(lab.id, node.namespace.spawn('sleep', ['1000']).pid);
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    holders.push(child);
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    const [id = '', inner] = line.toString().trim().split(' ');
    return { child, id, inner: Number(inner) };
  }

  const namespacesOf = (id: string) =>
    execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' })
      .split('\n')
      .filter((name) => name.startsWith(id));
  const runs = (pid: number) => startTime(pid) !== undefined;

  it('of a killed owner is removed by the next lab, processes included', async () => {
    const { child, id, inner } = await holder();
    expect(namespacesOf(id)).toHaveLength(5);
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect([namespacesOf(id).length, runs(inner)]).toEqual([5, true]);
    hold(singleNode({ pods: 1 }));
    expect(namespacesOf(id)).toEqual([]);
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith(id))).toEqual([]);
    expect(runs(inner)).toBe(false);
  });

  it.each(['SIGINT', 'SIGTERM'] as const)('after %s is nothing', async (signal) => {
    const { child, id, inner } = await holder();
    child.kill(signal);
    expect(await once(child, 'exit')).toEqual([null, signal]);
    expect(namespacesOf(id)).toEqual([]);
    expect(runs(inner)).toBe(false);
  });

  it('of a live owner is left alone by other labs', async () => {
    const { child, id } = await holder();
    hold(singleNode({ pods: 1 })).close();
    expect(namespacesOf(id)).toHaveLength(5);
    child.kill('SIGTERM');
    await once(child, 'exit');
  });

  it('after close is nothing, not even when a process ignores SIGTERM', async () => {
    const before = Object.keys(networkInterfaces());
    const topology = hold(singleNode({ pods: 1 }));
    const child = topology.node.namespace.spawn('sh', ['-c', 'trap "" TERM; echo ready; sleep 1000'], {
      stdio: 'pipe',
    });
    await once(child.stdout!, 'data');
    topology.close();
    expect(namespacesOf(topology.lab.id)).toEqual([]);
    expect(runs(child.pid!)).toBe(false);
    expect(Object.keys(networkInterfaces())).toEqual(before);
  });
});
