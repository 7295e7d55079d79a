/** Broadcasts and multicasts, of which the kernel gives each socket of an address its copy: forwarded once all the same. */
import { closeSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { setOption } from '../../agent/ffi/socket-options.ts';
import { startAgent } from '../../lab/agent.ts';
import type { Host } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { AF, interfaceIndex, SOCK, SOL, socket } from '../../lab/libc.ts';
import { singleNode } from '../../lab/single-node.ts';
import { encodeSockaddr } from '../../lab/sockaddr.ts';
import { receive, send } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle();
const title = (text: string) => titled(text, obstacle);
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** Of linux/in.h and linux/in6.h: IP_ADD_MEMBERSHIP with struct ip_mreqn, IPV6_ADD_MEMBERSHIP with struct ipv6_mreq. */
const JOIN = { 4: [SOL.IP, 35], 6: [SOL.IPV6, 20] } as const;
const GROUP = { 4: '239.1.2.3', 6: 'ff05::123' } as const;
const SETTINGS = { workers: 4, pin_cpus: false, recv_buf_size: 64 << 20 };
const READY = /updated userspace downstream set listener_id=(\d)/;

/** A client, a node of both families, three pods; the node is in a group of each family. */
function lab() {
  const topology = singleNode();
  cleanUps.push(() => topology.close());
  const { client, node } = topology;
  client.namespace.ip(['addr add fd00::9/64 dev eth0 nodad', 'route add 239.0.0.0/8 dev eth0']);
  node.namespace.ip(['addr add fd00::1/64 dev eth0 nodad']);
  for (const family of [4, 6] as const) join(node, family);
  return topology;
}

function join({ namespace }: Host, family: 4 | 6): void {
  const fd = namespace.inside(() => {
    const opened = socket(family === 4 ? AF.INET : AF.INET6, SOCK.DGRAM);
    const address = encodeSockaddr({ family, ip: GROUP[family], port: 0 });
    const index = new Uint8Array(new Uint32Array([interfaceIndex('eth0')]).buffer);
    const group = family === 4 ? address.subarray(4, 8) : address.subarray(8, 24);
    const [level, name] = JOIN[family];
    setOption(opened, level, name, Buffer.concat([group, ...(family === 4 ? [Buffer.alloc(4)] : []), index]));
    return opened;
  });
  cleanUps.push(() => closeSync(fd));
}

async function started(node: Host, ...listeners: ReturnType<typeof listener>[]) {
  const agent = startAgent(node, config(...listeners));
  cleanUps.push(() => agent.stop());
  return agent;
}

describe.skipIf(obstacle)(title('userspace, four workers'), () => {
  test.each([
    ['0.0.0.0:9000', ['10.0.0.255:9000', '255.255.255.255:9000', '239.1.2.3:9000', '10.0.0.1:9000']],
    ['[::]:9000', ['10.0.0.255:9000', '255.255.255.255:9000', '10.0.0.1:9000', '[fd00::1]:9000', '[ff05::123]:9000']],
    ['10.0.0.255:9000', ['10.0.0.255:9000']],
  ])('on %s: what is sent to %s comes once', async (bind, destinations) => {
    const { client, node, pods } = lab();
    node.namespace.ip(pods.map((pod, i) => `route add fd00:1::1${i}/128 dev ${pod.hostInterface}`));
    const six = pods.map((pod, i) => {
      pod.namespace.ip([`addr add fd00:1::1${i}/128 dev eth0 nodad`]);
      return { ...pod, ip: `fd00:1::1${i}` };
    });
    const downstream = bind.startsWith('[')
      ? [...pods.map(({ address }) => address), ...six.map(({ ip, port }) => `[${ip}]:${port}`)]
      : pods;
    const base = listener({ bind, interface: 'eth0', downstream });
    const agent = await started(node, { ...base, mode: 'userspace', settings: SETTINGS } as typeof base);
    await agent.waitFor(READY);
    const at = { 4: await receive(pods), 6: await receive(six) };
    cleanUps.push(() => [at[4].close(), at[6].close()]);
    let all = 0;
    for (const to of destinations) {
      // From many ports: each of the sockets has its share of what is sent to the node alone.
      const from = Array.from(
        { length: 20 },
        (_, i) => `${to.startsWith('[') ? '[fd00::9]' : '10.0.0.9'}:${40000 + i}`,
      );
      const sent = await send(client, { to, from, count: 200 });
      const { count, ...report } = await at[to.startsWith('[') ? 6 : 4].report({ expect: 200 });
      expect([to, count, union(report, sent)]).toEqual([to, 200, { received: 200, missing: [], duplicated: [] }]);
      all += count;
    }
    expect(await ledger(agent, 'test', all)).toMatchObject({ forwarded: all, dropped: {} });
  });
});

describe.skipIf(obstacle)(title('listeners on 0.0.0.0 and on [::] of one port'), () => {
  test.each(['tc_ebpf', 'userspace'])('(%s): IPv4 is the first one’s alone', async (mode) => {
    const { client, node, pods } = lab();
    const [one, other] = [pods[0]!, pods[1]!];
    other.namespace.ip(['addr add fd00:1::11/128 dev eth0 nodad']);
    node.namespace.ip([`route add fd00:1::11/128 dev ${other.hostInterface}`]);
    const base = { mode, settings: { ...SETTINGS, workers: 2 } };
    const agent = await started(
      node,
      {
        ...listener({ name: 'all', bind: '[::]:9000', interface: 'eth0', downstream: [other, '[fd00:1::11]:9000'] }),
        ...base,
      },
      { ...listener({ name: 'four', bind: '0.0.0.0:9000', interface: 'eth0', downstream: [one] }), ...base },
    );
    if (mode === 'userspace') await agent.waitFor(/updated userspace downstream set listener_id=1/);
    else await agent.waitFor(/attached TC eBPF program/);
    const at = await receive([one, other, { ...other, ip: 'fd00:1::11' }]);
    cleanUps.push(() => at.close());
    for (const to of ['10.0.0.255:9000', '255.255.255.255:9000', '10.0.0.1:9000', '[fd00::1]:9000']) {
      const sent = await send(client, {
        to,
        from: to.startsWith('[') ? '[fd00::9]:40000' : '10.0.0.9:40000',
        count: 20,
      });
      const report = await at.report({ expect: 20 });
      expect(union(report, sent)).toEqual({ received: 20, missing: [], duplicated: [] });
      const six = to.startsWith('[');
      expect([to, report.receivers.map(({ count }) => count)]).toEqual([to, [six ? 0 : 20, 0, six ? 20 : 0]]);
    }
    expect((await ledger(agent, 'four', 60)).forwarded).toBe(60);
    expect((await ledger(agent, 'all', 20)).forwarded).toBe(20);
  });
});

describe.skipIf(obstacle)(title('a listener on a broadcast address beside one on all addresses'), () => {
  const CASES = ['0.0.0.0', '[::]'].flatMap((all) => [
    { all, mode: 'userspace' },
    { all, mode: 'tc_ebpf' },
  ]);
  test.each(CASES)('($mode, $all): what is sent there is that one’s alone', async ({ all, mode }) => {
    const { client, node, pods } = lab();
    const [one, other] = [pods[0]!, pods[1]!];
    // Of the kernel path’s listeners all but the frames of this interface comes to their safety nets.
    const nic = mode === 'tc_ebpf' ? 'lo' : 'eth0';
    const base = { mode, settings: { ...SETTINGS, workers: 2 } };
    const agent = await started(
      node,
      { ...listener({ name: 'all', bind: `${all}:9000`, interface: nic, downstream: [other] }), ...base },
      { ...listener({ name: 'broadcast', bind: '10.0.0.255:9000', interface: nic, downstream: [one] }), ...base },
    );
    if (mode === 'userspace') await agent.waitFor(/updated userspace downstream set listener_id=1/);
    else await agent.waitFor(/attached TC eBPF program/);
    const at = await receive([one, other]);
    cleanUps.push(() => at.close());
    for (const [to, counts] of [
      ['10.0.0.255:9000', [20, 0]],
      ['255.255.255.255:9000', [0, 20]],
      ['10.0.0.1:9000', [0, 20]],
    ] as const) {
      const from = Array.from({ length: 10 }, (_, i) => `10.0.0.9:${40000 + i}`);
      const sent = await send(client, { to, from, count: 20 });
      const report = await at.report({ expect: 20 });
      expect([to, union(report, sent)]).toEqual([to, { received: 20, missing: [], duplicated: [] }]);
      expect([to, report.receivers.map(({ count }) => count)]).toEqual([to, counts]);
    }
    expect((await ledger(agent, 'broadcast', 20)).forwarded).toBe(20);
    expect((await ledger(agent, 'all', 40)).forwarded).toBe(40);
  });
});
