/** One agent takes over from another that runs, in both datapaths: no datagram is lost, none comes twice, no sender hears an error. */
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { writeKubeconfig } from '../../lab/api/kubeconfig.ts';
import { dualStack } from '../../lab/dual-stack.ts';
import type { Topology } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { pause, until } from '../../lab/patience.ts';
import { receive, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { inMode, MODES } from './modes.ts';

const obstacle = labObstacle();
const TAKE = { args: ['--takeover'] };
const HANDED_OVER = /INFO handed over/;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function built<T extends Topology>(topology: T): T {
  cleanUps.push(() => topology.close());
  return topology;
}

function start(...parameters: Parameters<typeof startAgent>): Agent {
  const agent = startAgent(...parameters);
  cleanUps.push(async () => {
    agent.kill('SIGKILL');
    await agent.ended;
  });
  return agent;
}

describe.skipIf(obstacle)(titled('a takeover', obstacle), () => {
  describe.each(MODES)('$name', (mode) => {
    test('by two agents in turn: nothing is lost or doubled in either family', async () => {
      const { client, node, pods, pods6 } = built(dualStack({ vlan: false }));
      const binds = { ipv4: '10.0.0.1:9000', ipv6: '[fd00::1]:9000' };
      const what = config(
        inMode(mode, listener({ name: 'ipv4', bind: binds.ipv4, interface: 'eth0', downstream: pods })),
        inMode(mode, listener({ name: 'ipv6', bind: binds.ipv6, interface: 'eth0', downstream: pods6 })),
      );
      const at = [await receive(pods), await receive(pods6)];
      for (const each of at) cleanUps.push(() => each.close());
      const first = start(node, what);
      await first.waitFor(mode.ready);
      // Connected sockets: they would hear that nobody listens.
      const sendings = await Promise.all(
        Object.values(binds).map((to) => startSending(client, { to, rate: 5000, cpu: 0 })),
      );
      await pause(100);
      const second = start(node, what, TAKE);
      await first.waitFor(HANDED_OVER);
      expect((await first.ended).code).toBe(0);
      const third = start(node, what, TAKE);
      await second.waitFor(/handed over, standing by for the other agent/);
      await pause(100);
      for (const [index, sending] of sendings.entries()) {
        const sent = await sending.stop();
        const report = await at[index]!.report({ expect: sent.count });
        expect(union(report, sent)).toEqual({ received: sent.count, missing: [], duplicated: [] });
        expect(sent.failures).toEqual({});
      }
      expect((await third.get('/readyz')).status).toBe(200);
      expect((await second.stop()).code).toBe(0);
    });
  });

  test('that ends before it serves: the other one has served all the time, and goes on', async () => {
    const { client, node, pods } = built(dualStack({ vlan: false }));
    const [kernel, userspace] = MODES.map((mode, index) =>
      inMode(mode, listener({ name: mode.name, bind: `10.0.0.1:900${index}`, interface: 'eth0', downstream: pods })),
    );
    const what = config(kernel!, userspace!);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const first = start(node, what);
    await first.waitFor(/updated userspace downstream set/);
    const sendings = await Promise.all(
      ['10.0.0.1:9000', '10.0.0.1:9001'].map((to) => startSending(client, { to, rate: 2000, cpu: 0 })),
    );
    // It finds out that it cannot serve metrics only once it has taken over.
    const second = start(node, { ...what, metrics: { enabled: true, bind: '192.0.2.77:9090' } }, TAKE);
    expect((await second.ended).code).toBe(1);
    await first.waitFor(/WARN the agent that was to take over has ended before it served, this one goes on/);
    await first.waitFor(/going on where an agent before this one has stopped/);
    await pause(300);
    const sent = await Promise.all(sendings.map((sending) => sending.stop()));
    const count = sent.reduce((sum, one) => sum + one.count, 0);
    const streams = sent.flatMap((one) => one.streams);
    const report = await at.report({ expect: count });
    expect(union(report, { streams })).toEqual({ received: count, missing: [], duplicated: [] });
    expect(sent.map(({ failures }) => failures)).toEqual([{}, {}]);
    expect((await first.get('/readyz')).status).toBe(200);
    expect((await first.stop()).code).toBe(0);
  });

  test('whose agent dies: the one that stands by goes on', async () => {
    const [, userspace] = MODES;
    const { client, node, pods } = built(dualStack({ vlan: false }));
    const what = config(inMode(userspace!, listener({ bind: '10.0.0.1:9000', interface: 'eth0', downstream: pods })));
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const first = start(node, what, TAKE);
    await first.waitFor(userspace!.ready);
    const second = start(node, what, TAKE);
    await first.waitFor(HANDED_OVER);
    second.kill('SIGKILL');
    const from = first.lines.length;
    await first.waitFor(/WARN the agent that took over has ended, this one goes on/);
    await first.waitFor(userspace!.ready, { from });
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: 2000, cpu: 0 });
    const sent = await sending.stop();
    expect(union(await at.report({ expect: sent.count }), sent)).toMatchObject({ missing: [], duplicated: [] });
  });

  test('goes on listener by listener: what is served by now is the next agent’s, also in a row of three', async () => {
    const [, userspace] = MODES;
    const { node, pods } = built(dualStack({ vlan: false }));
    const served = inMode(userspace!, listener({ bind: '10.0.0.1:9000', interface: 'eth0', downstream: pods }));
    const followed = { name: 'followed', bind: '10.0.0.1:9001', mode: 'userspace' };
    const what = config(served);
    const first = start(node, what);
    await first.waitFor(userspace!.ready);
    // Nobody is there to say what its endpoints are.
    const api = writeKubeconfig(node.namespace.directory, { url: 'http://127.0.0.1:1' });
    const waits = { ...followed, kubernetes: { namespace: 'n', service: 's', port: 9000 } };
    const second = start(node, { ...what, listeners: [served, waits] }, { ...TAKE, env: { KUBECONFIG: api } });
    await second.waitFor(userspace!.ready);
    const holders = () => {
      const pids = node.namespace.run('ss', ['-H', '-ulnp', 'sport = :9000']).matchAll(/pid=(\d+)/g);
      return [...new Set([...pids].map(([, pid]) => Number(pid)))];
    };
    await until('the second one’s sockets alone', async () => holders().join() === String(second.pid));
    expect(first.lines.some((line) => HANDED_OVER.test(line))).toBe(false);
    const third = start(node, what, TAKE);
    await third.waitFor(userspace!.ready);
    expect((await first.ended).code).toBe(0);
    await second.waitFor(/handed over, standing by for the other agent/);
    expect(holders()).toEqual([third.pid]);
    // Its death is the standby's business, and the standby's end is nobody's.
    expect((await second.stop()).code).toBe(0);
    expect((await third.get('/readyz')).status).toBe(200);
  });
});
