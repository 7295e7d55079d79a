/** Worker threads where a control group leaves the agent few threads or little CPU. */
import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { Cgroup, type Controller, cgroupObstacle } from '../../lab/cgroup.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient, until } from '../../lab/patience.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, send } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle() ?? cgroupObstacle('pids', 'cpu');
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const WORKING = /updated userspace downstream set listener_id=0/;

function group(controller: Controller): Cgroup {
  const made = new Cgroup(controller);
  cleanUps.push(() => made.close());
  return made;
}

function lab() {
  const topology = singleNode();
  cleanUps.push(() => topology.close());
  const of = (name: string, port: number, workers: number) => {
    const base = listener({ name, bind: `0.0.0.0:${port}`, interface: 'eth0', downstream: topology.pods });
    return { ...base, mode: 'userspace', settings: { workers, recv_buf_size: 8 << 20 } } as typeof base;
  };
  return { ...topology, of };
}

/** A thread may take long to begin on a busy machine; what waits for it is not lost. */
function forwarded(agent: Agent, name: string, count: number): Promise<unknown> {
  const row = `udp_fanout_packets_forwarded_total{listener="${name}",mode="userspace"}`;
  const limit = { limit: 20_000, every: 50 };
  return until(
    `${count} datagrams forwarded by ${name}`,
    async () => (await agent.metrics()).get(row) === count,
    limit,
  );
}

function threadsOf(agent: Agent): number {
  return readdirSync(`/proc/${agent.pid}/task`).length;
}

describe.skipIf(obstacle)(titled('userspace in a control group', obstacle), () => {
  test(
    'a worker that cannot start costs its listener only, until it can; none takes what is another’s',
    async () => {
      const { client, node, pods, of } = lab();
      // As many threads as an agent with two workers has.
      const measured = startAgent(node, config(of('one', 9000, 2)));
      await measured.waitFor(WORKING);
      const most = threadsOf(measured);
      await measured.stop();
      const few = group('pids');
      few.limitThreads(most);
      const agent = startAgent(node, config(of('one', 9000, 1), of('many', 9001, 4)), { under: few.under });
      cleanUps.push(() => agent.stop());
      await agent.waitFor(WORKING);
      await agent.waitFor(/ERROR failed to start worker \d: EAGAIN: no more threads allowed \(pids\.max of the pod/);
      expect(await agent.get('/readyz')).toMatchObject({ status: 503, body: 'not ready: listener(many)\n' });
      const at = await receive(pods);
      cleanUps.push(() => at.close());
      const first = await send(client, { to: '10.0.0.1:9000', from: '10.0.0.9:40000', count: 300, rate: 2000 });
      await forwarded(agent, 'one', 300);
      expect(union(await at.report({ expect: 300 }), first)).toEqual({ received: 300, missing: [], duplicated: [] });
      expect((await ledger(agent, 'one', 300)).forwarded).toBe(300);
      few.limitThreads(most + 20);
      await agent.waitFor(/updated userspace downstream set listener_id=1/, { timeout: 40_000 });
      const second = await send(client, { to: '10.0.0.1:9001', from: '10.0.0.9:40000', count: 300, rate: 2000 });
      await forwarded(agent, 'many', 300);
      expect(union(await at.report({ expect: 300 }), second)).toEqual({ received: 300, missing: [], duplicated: [] });
      const { code, ms } = await agent.stop();
      expect(code).toBe(0);
      expect(ms).toBeLessThan(patient(2000));
    },
    patient(90_000),
  );

  test('where not one listener can start the agent ends at once, and says why', async () => {
    const { node, of } = lab();
    const few = group('pids');
    few.limitThreads(10);
    const agent = startAgent(node, config(of('many', 9001, 32)), { under: few.under });
    const { code, ms } = await agent.ended;
    expect(code).toBe(1);
    expect(agent.lines.at(-1)).toMatch(/ERROR failed to start worker \d+: EAGAIN/);
    expect(ms).toBeLessThan(patient(10_000));
  });

  test('workers: 0 is no more than the CPU quota', async () => {
    const { node, of } = lab();
    const little = group('cpu');
    little.limitCpus(1);
    const threads: number[] = [];
    for (const [workers, under] of [
      [1, []],
      [0, little.under],
    ] as const) {
      const agent = startAgent(node, config(of('one', 9000, workers)), { under });
      await agent.waitFor(WORKING, { timeout: 20_000 });
      threads.push(threadsOf(agent));
      await agent.stop();
    }
    expect(threads[1]).toBe(threads[0]);
  });
});
