/**
 * The program goes on without its agent, and the next agent goes on where that one has stopped: what that means beside that
 * nothing is lost, which is in hitless.test.ts.
 */
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, type AgentOptions, startAgent } from '../../lab/agent.ts';
import { loses } from '../../lab/books.ts';
import type { Topology } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient, pause, until } from '../../lab/patience.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, send, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle();
const ATTACHED = /attached TC eBPF program to ingress interface="eth0"/;
const WENT_ON = /INFO going on where an agent before this one has stopped listeners=(\d+)$/;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function built<T extends Topology>(topology: T): T {
  cleanUps.push(() => topology.close());
  return topology;
}

type Node = Parameters<typeof startAgent>[0];
const filters = (node: Node, nic = 'eth0') =>
  node.namespace.run('tc', ['filter', 'show', 'dev', nic, 'ingress']).match(/name udp_fanout/g)?.length ?? 0;
/** An error that nobody catches, by SIGUSR2; encoded, since NODE_OPTIONS is split at spaces. */
const FAULT = `data:text/javascript,${encodeURIComponent('process.on("SIGUSR2", () => { throw new Error("boom"); })')}`;
const base = { bind: '0.0.0.0:9000', interface: 'eth0' };

async function started(node: Node, what: object, options: AgentOptions = {}): Promise<Agent> {
  const agent = startAgent(node, what, options);
  cleanUps.push(async () => {
    agent.kill('SIGKILL');
    await agent.ended;
  });
  await agent.waitFor(ATTACHED);
  return agent;
}

describe.skipIf(obstacle)(titled('a program without its agent', obstacle), () => {
  test('serves a listener whose endpoints the next agent does not know yet', async () => {
    const { client, node, pods } = built(singleNode());
    const first = await started(node, config(listener({ ...base, downstream: pods })));
    first.kill('SIGTERM');
    await first.ended;
    // There is no API server: the endpoints stay unknown.
    const kubernetes = { namespace: 'logging', service: 'vector', port: 9000 };
    const { downstream: _, ...rest } = listener({ ...base, downstream: pods });
    const second = await started(node, config({ ...rest, kubernetes } as never));
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sent = await send(client, { to: '10.0.0.1:9000', count: 300, rate: 10_000 });
    expect(union(await at.report({ expect: 300 }), sent)).toEqual({ received: 300, missing: [], duplicated: [] });
    expect(await second.get('/readyz')).toMatchObject({ status: 503, body: 'not ready: endpoints(test)\n' });
    expect(await ledger(second, 'test', 300)).toMatchObject({ forwarded: 300 });
  });

  test('leaves interfaces and listeners that the next config does not name', async () => {
    const { client, node, pods } = built(singleNode());
    node.namespace.ip(['link add late0 type veth peer late1', 'link set late0 up']);
    const both = config(
      listener({ ...base, downstream: pods }),
      listener({ name: 'late', bind: '0.0.0.0:9001', interface: 'late0', downstream: pods }),
    );
    const first = await started(node, both);
    await first.waitFor(/attached TC eBPF program to ingress interface="late0"/);
    first.kill('SIGKILL');
    await first.ended;
    const second = await started(node, config(listener({ ...base, downstream: pods })));
    expect(second.lines.find((line) => WENT_ON.test(line))).toMatch(/listeners=2$/);
    await second.waitFor(/INFO detached the program that an agent before this one has left interface="late0"$/);
    expect([filters(node), filters(node, 'late0')]).toEqual([1, 0]);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    loses('datagrams for the listener that is gone', { atMost: 10 });
    await send(client, { to: '10.0.0.1:9001', count: 10 });
    const sent = await send(client, { to: '10.0.0.1:9000', count: 300, rate: 10_000 });
    expect(union(await at.report({ expect: 300 }), sent)).toEqual({ received: 300, missing: [], duplicated: [] });
    expect([...(await second.metrics()).keys()].filter((key) => key.includes('listener="late"'))).toEqual([]);
  });

  test('is gone once the listener is served by worker threads', async () => {
    const { client, node, pods } = built(singleNode());
    const first = await started(node, config(listener({ ...base, downstream: pods })));
    first.kill('SIGKILL');
    await first.ended;
    const { interface: _, ...rest } = listener({ ...base, downstream: pods });
    const second = startAgent(node, config({ ...rest, mode: 'userspace' } as never));
    cleanUps.push(() => second.stop());
    await second.waitFor(/INFO detached the program that an agent before this one has left interface="eth0"$/);
    expect([filters(node), node.namespace.run('tc', ['filter', 'show', 'dev', 'lo', 'egress'])]).toEqual([0, '']);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sent = await send(client, { to: '10.0.0.1:9000', count: 300, rate: 10_000 });
    expect(union(await at.report({ expect: 300 }), sent)).toEqual({ received: 300, missing: [], duplicated: [] });
  });

  test.each([
    { workers: 2, where: 'another listener stays with the program' },
    { workers: 2, where: 'none does', isAlone: true },
  ])('serves on until $workers worker threads do, where $where', async ({ workers, isAlone = false }) => {
    const { client, node, pods } = built(singleNode());
    const goes = listener({ name: 'goes', bind: '0.0.0.0:9001', interface: 'eth0', downstream: pods });
    const others = isAlone ? [] : [listener({ ...base, downstream: pods })];
    const first = await started(node, config(goes, ...others));
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sending = await startSending(client, { to: '10.0.0.1:9001', rate: 5000, cpu: 0 });
    await pause(300);
    first.kill('SIGKILL');
    await first.ended;
    const { interface: _, ...rest } = goes;
    const user = { ...rest, mode: 'userspace', settings: { workers } } as never;
    const second = startAgent(node, config(user, ...others));
    cleanUps.push(() => second.stop());
    await second.waitFor(/updated userspace downstream set listener_id=0/);
    await pause(1000);
    const sent = await sending.stop();
    expect(union(await at.report({ expect: sent.count }), sent)).toEqual({
      received: sent.count,
      missing: [],
      duplicated: [],
    });
    const byThreads = 'udp_fanout_packets_forwarded_total{listener="goes",mode="userspace"}';
    expect((await second.metrics()).get(byThreads)).toBeGreaterThan(0);
  });

  test('leaves the datagrams to the stack when its lease runs out, until there is an agent again', async () => {
    const { client, node, pods } = built(singleNode());
    const seconds = Math.ceil(patient(3000) / 1000);
    const what = { ...config(listener({ ...base, downstream: pods })), lifecycle: { lease_secs: seconds } };
    const first = await started(node, what);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    // Longer than the lease: the agent renews it.
    await pause(3500);
    await send(client, { to: '10.0.0.1:9000', count: 30 });
    first.kill('SIGKILL');
    await first.ended;
    await send(client, { to: '10.0.0.1:9000', count: 30 });
    expect((await at.report({ expect: 60 })).count).toBe(60);
    const host = await receive([{ ...node, port: 9000 }]);
    cleanUps.push(() => host.close());
    await until('the lease has run out', async () => {
      await send(client, { to: '10.0.0.1:9000', count: 1 });
      return (await host.peek()).count > 0;
    });
    await at.report();
    await host.report();
    const sent = await send(client, { to: '10.0.0.1:9000', count: 30 });
    expect(union(await host.report({ expect: 30 }), sent)).toEqual({ received: 30, missing: [], duplicated: [] });
    const second = await started(node, what);
    const again = await send(client, { to: '10.0.0.1:9000', count: 30 });
    expect(union(await at.report({ expect: 30 }), again)).toEqual({ received: 30, missing: [], duplicated: [] });
    const passed = (await second.metrics()).get(
      'udp_fanout_packets_passed_total{listener="test",mode="tc_ebpf",reason="lease_expired"}',
    );
    expect(passed).toBeGreaterThanOrEqual(31);
    await ledger(second, 'test', { atLeast: 90 });
  });

  test('goes with its agent where the config says so', async () => {
    const { node, pods } = built(singleNode());
    const what = { ...config(listener({ ...base, downstream: pods })), lifecycle: { on_exit: 'detach' } };
    const agent = await started(node, what);
    agent.kill('SIGTERM');
    expect((await agent.ended).code).toBe(0);
    expect([filters(node), node.namespace.run('tc', ['filter', 'show', 'dev', 'lo', 'egress'])]).toEqual([0, '']);
    // The qdisc may be somebody else's by now.
    expect(node.namespace.run('tc', ['qdisc', 'show', 'dev', 'eth0'])).toContain('clsact');
  });

  test('stays after an error that nobody caught, whatever the config says of a clean stop', async () => {
    const { client, node, pods } = built(singleNode());
    const what = { ...config(listener({ ...base, downstream: pods })), lifecycle: { on_exit: 'detach' } };
    const first = await started(node, what, { env: { NODE_OPTIONS: `--import ${FAULT}` } });
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: 5000, cpu: 0 });
    await pause(300);
    first.kill('SIGUSR2');
    expect((await first.ended).code).toBe(1);
    expect(first.lines).toContainEqual(expect.stringMatching(/ERROR boom$/));
    expect(filters(node)).toBe(1);
    const second = await started(node, what);
    await pause(300);
    const sent = await sending.stop();
    expect(second.lines).toContainEqual(expect.stringMatching(WENT_ON));
    expect(union(await at.report({ expect: sent.count }), sent)).toEqual({
      received: sent.count,
      missing: [],
      duplicated: [],
    });
    expect(await ledger(second, 'test', sent.count)).toMatchObject({ forwarded: sent.count });
  });

  test('of another version is replaced, and counters start anew', async () => {
    const { node, pods } = built(singleNode());
    const first = await started(node, config(listener({ ...base, downstream: pods })));
    first.kill('SIGKILL');
    await first.ended;
    // Who may not look up programs by number cannot tell what this one is either.
    const kept = ['bpf', 'net_admin', 'perfmon', 'net_raw'].map((one) => `+${one}`);
    const under = ['setpriv', '--bounding-set', ['-all', ...kept].join(',')];
    const second = startAgent(node, config(listener({ ...base, downstream: pods })), { under });
    cleanUps.push(() => second.stop());
    await second.waitFor(
      /INFO the program that an agent before this one has left is replaced, its counters and tables are not kept: the capability SYS_ADMIN is missing$/,
    );
    await second.waitFor(ATTACHED);
    expect(filters(node)).toBe(1);
  });

  test('a downstream that was out is not used again before it answers', async () => {
    const { client, node, pods } = built(singleNode());
    const [dead, ...alive] = pods;
    const answers = (yes: boolean) =>
      dead!.namespace.run('sysctl', ['-qw', `net.ipv4.icmp_echo_ignore_all=${yes ? 0 : 1}`]);
    answers(false);
    const what = {
      ...config(listener({ ...base, downstream: pods })),
      health: { interval_secs: 1, timeout_secs: 0.5 },
    };
    const first = await started(node, what);
    await first.waitFor(/INFO updated tc_ebpf downstream set listener_id=0 endpoints=2$/);
    for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
      const at = await receive(alive);
      const sending = await startSending(client, { to: '10.0.0.1:9000', rate: 5000, cpu: 0 });
      first.kill(signal);
      const second = await started(node, what);
      expect(second.lines.find((line) => /were not in use before this start/.test(line))).toMatch(/endpoints=1$/);
      await pause(1500);
      const sent = await sending.stop();
      expect(union(await at.report({ expect: sent.count }), sent)).toEqual({
        received: sent.count,
        missing: [],
        duplicated: [],
      });
      at.close();
      second.kill(signal);
      await second.ended;
    }
    answers(true);
    const last = await started(node, what);
    await last.waitFor(/INFO updated tc_ebpf downstream set listener_id=0 endpoints=3$/, { timeout: 10_000 });
  });

  test('of worker threads: a downstream that was out is not used again before it answers either', async () => {
    const { client, node, pods } = built(singleNode());
    const dead = pods[0]!;
    const answers = (yes: boolean) =>
      dead.namespace.run('sysctl', ['-qw', `net.ipv4.icmp_echo_ignore_all=${yes ? 0 : 1}`]);
    answers(false);
    const { interface: _, ...rest } = listener({ ...base, downstream: pods });
    const health = { interval_secs: 1, timeout_secs: 0.5 };
    const what = { ...config({ ...rest, mode: 'userspace' } as never), health };
    const start = () => {
      const agent = startAgent(node, what);
      cleanUps.push(async () => {
        agent.kill('SIGKILL');
        await agent.ended;
      });
      return agent;
    };
    const serves = (count: number) => new RegExp(`INFO updated userspace downstream set .*endpoints=${count}$`);
    let agent = start();
    await agent.waitFor(serves(2));
    for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
      // Nobody is told of a kill: it is written within a second.
      if (signal === 'SIGKILL') await pause(1500);
      agent.kill(signal);
      await agent.ended;
      const at = await receive(pods);
      const sending = await startSending(client, { to: '10.0.0.1:9000', rate: 5000, cpu: 0 });
      agent = start();
      await agent.waitFor(serves(2));
      await pause(1500);
      const sent = await sending.stop();
      const report = await at.report({ expect: sent.count });
      expect(report.receivers.map(({ count }) => count > 0)).toEqual([false, true, true]);
      const { missing, duplicated } = union(report, sent);
      expect([duplicated, missing.filter(({ first }) => first > 0)]).toEqual([[], []]);
      loses('the first ones are there before the agent is', { atMost: missing[0]!.last + 1 });
      at.close();
    }
    answers(true);
    await agent.waitFor(serves(3), { timeout: 10_000 });
  });
});
