/** A config that is edited while the agent runs: followed listener by listener, or refused whole. */
import { mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { loses } from '../../lab/books.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { until } from '../../lab/patience.ts';
import { type SingleNode, singleNode } from '../../lab/single-node.ts';
import { receive, send } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle();
const ATTACHED = /attached TC eBPF program to ingress interface="eth0"/;
const FOLLOWED = /INFO following the edited config file=".*" listeners=\d+$/;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function built(): SingleNode {
  const topology = singleNode();
  cleanUps.push(() => topology.close());
  return topology;
}

async function started(node: SingleNode['node'], what: object): Promise<Agent> {
  const agent = startAgent(node, what);
  cleanUps.push(() => agent.stop());
  await agent.waitFor(ATTACHED);
  return agent;
}

async function edit(agent: Agent, what: object): Promise<void> {
  const from = agent.lines.length;
  writeFileSync(agent.configFile, JSON.stringify(what));
  await agent.waitFor(FOLLOWED, { from });
}

describe.skipIf(obstacle)(titled('an edited config', obstacle), () => {
  test('gives a listener another port, other downstreams and its counters', async () => {
    const { client, node, pods } = built();
    const one = (port: number, downstream = pods) =>
      config(listener({ bind: `0.0.0.0:${port}`, interface: 'eth0', downstream }));
    const agent = await started(node, one(9000));
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    await send(client, { to: '10.0.0.1:9000', count: 30 });
    await edit(agent, one(9001, pods.slice(1)));
    await send(client, { to: '10.0.0.1:9001', count: 30 });
    const { receivers, count } = await at.report({ expect: 60 });
    expect([count, receivers[0]!.count]).toEqual([60, 10]);
    expect(await ledger(agent, 'test', 60)).toMatchObject({ forwarded: 60 });
  });

  test('gives health, log and metrics what they are to be', async () => {
    const { node, pods } = built();
    const base = config(listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods }));
    const agent = await started(node, base);
    pods[0]!.namespace.run('sysctl', ['-qw', 'net.ipv4.icmp_echo_ignore_all=1']);
    await edit(agent, { ...base, health: { interval_secs: 1, timeout_secs: 0.3 }, log: { level: 'debug' } });
    await agent.waitFor(/updated tc_ebpf downstream set listener_id=0 endpoints=2$/);
    // What was down is not used on the way from one to the other.
    const from = agent.lines.length;
    await edit(agent, { ...base, health: { interval_secs: 2, timeout_secs: 0.3 } });
    await agent.waitFor(/downstreams that were not in use before this start .* endpoints=1$/, { from });
    await edit(agent, { ...base, metrics: { enabled: true, bind: '127.0.0.1:9191' } });
    await agent.waitFor(/serving metrics bind="127.0.0.1:9191"/);
    await expect(agent.get('/readyz')).rejects.toThrow();
    expect(agent.lines.slice(from).filter((line) => line.includes('endpoints=3'))).toEqual([]);
  });

  test('with mistakes is refused whole: the agent goes on, and says so', async () => {
    const { client, node, pods } = built();
    const good = config(listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods }));
    const agent = await started(node, good);
    const reload = 'udp_fanout_config_last_reload_successful';
    expect((await agent.metrics()).get(reload)).toBe(1);
    writeFileSync(agent.configFile, 'listeners: [{name: a, bnd: "0.0.0.0:1"}]\n');
    await agent.waitFor(/ERROR the edited config is refused, the one before stays mistake=".*unknown key/);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sent = await send(client, { to: '10.0.0.1:9000', count: 30 });
    expect(union(await at.report({ expect: 30 }), sent)).toMatchObject({ received: 30, missing: [] });
    expect((await agent.metrics()).get(reload)).toBe(0);
    expect((await agent.get('/readyz')).body).toMatch(/^ok\nconfig: ".*" was edited and is refused/);
    await edit(agent, config(listener({ bind: '0.0.0.0:9001', interface: 'eth0', downstream: pods })));
    expect((await agent.metrics()).get(reload)).toBe(1);
    expect((await agent.metrics()).get('udp_fanout_config_last_reload_success_timestamp_seconds')).toBeGreaterThan(
      1.7e9,
    );
  });

  test('is followed where a ConfigMap is mounted, by itself within a second and at once by SIGHUP', async () => {
    const { client, node, pods } = built();
    const folder = join(node.namespace.directory, 'mounted');
    const version = (name: string, port: number) => {
      mkdirSync(join(folder, name), { recursive: true });
      const what = config(listener({ bind: `0.0.0.0:${port}`, interface: 'eth0', downstream: pods }));
      writeFileSync(join(folder, name, 'config.yaml'), JSON.stringify(what));
    };
    version('..1', 9000);
    symlinkSync('..1', join(folder, '..data'));
    symlinkSync('..data/config.yaml', join(folder, 'config.yaml'));
    const agent = startAgent(node, '', { args: ['--config', join(folder, 'config.yaml')] });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    /** As a kubelet does it. */
    const swapTo = (name: string, port: number) => {
      version(name, port);
      symlinkSync(name, join(folder, '..data_tmp'));
      renameSync(join(folder, '..data_tmp'), join(folder, '..data'));
    };
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const follows = async (port: number, from: number) => {
      // A look a second, and another one for what is under way.
      await agent.waitFor(FOLLOWED, { from, timeout: 2000 });
      const { count } = await at.peek();
      await until('the new port is served', async () => {
        loses('it is sent before the agent serves the new port', { atMost: 1 });
        await send(client, { to: `10.0.0.1:${port}`, count: 1 });
        return (await at.peek()).count > count;
      });
    };
    let from = agent.lines.length;
    swapTo('..2', 9001);
    await follows(9001, from);
    from = agent.lines.length;
    swapTo('..3', 9002);
    agent.kill('SIGHUP');
    await follows(9002, from);
    agent.kill('SIGHUP');
    await agent.waitFor(/INFO config is as it was file="/);
    expect((await agent.get('/readyz')).body).toBe('ok\n');
  });
});
