/** What never meets the program is served by the listener's socket, and the operator hears by which way it came. */
import { afterEach, describe, expect, test } from 'vitest';
import { startAgent } from '../../lab/agent.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient } from '../../lab/patience.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, send, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle();
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

describe.skipIf(obstacle)(titled('datagrams that come past the program', obstacle), () => {
  test('by an interface that is not the listener’s, and by one where a filter of others has them first', async () => {
    const topology = singleNode({ wiring: 'bridged' });
    cleanUps.push(() => topology.close());
    const { client, node, pods } = topology;
    const port = (name: string, bind: string) => listener({ name, bind, interface: 'eth0', downstream: pods });
    const agent = startAgent(node, config(port('aside', '0.0.0.0:9000'), port('behind', '0.0.0.0:9001')));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/attached TC eBPF program to ingress/);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const straight = await send(client, { to: '10.0.0.1:9001', count: 30, cpu: 0 });
    expect(union(await at.report({ expect: 30 }), straight)).toMatchObject({ received: 30, missing: [] });

    const accept = ['bpf', 'bytecode', '1,6 0 0 4294967295,', 'classid', '1:1'];
    node.namespace.run('tc', ['filter', 'add', 'dev', 'eth0', 'ingress', 'pref', '1', ...accept]);
    const streams = [
      await startSending(pods[0]!, { to: '10.0.1.1:9000', rate: 20 }),
      await startSending(client, { to: '10.0.0.1:9001', rate: 20 }),
    ];
    const remarks = async () => (await agent.get('/readyz')).body.split('\n');
    await expect
      .poll(remarks, { timeout: patient(25_000), interval: 200 })
      .toEqual([
        'ok',
        expect.stringMatching(
          /^datapath\(aside\): \d+ datagrams in 10 s came past the program, by cni0: name it under interfaces/,
        ),
        expect.stringMatching(
          /^datapath\(behind\): \d+ datagrams in 10 s came past the program, by eth0: doctor says who has them first there$/,
        ),
        '',
      ]);
    await agent.waitFor(/WARN datagrams came past the program: doctor says .* listener="behind" .* interface="eth0"/);
    const [aside, behind] = [await streams[0]!.stop(), await streams[1]!.stop()];
    expect((await at.report({ expect: aside.count + behind.count })).count).toBe(aside.count + behind.count);
    expect(await ledger(agent, 'aside', aside.count)).toMatchObject({ forwarded: aside.count, dropped: {} });
    const all = 30 + behind.count;
    expect(await ledger(agent, 'behind', all)).toMatchObject({ forwarded: all, dropped: {} });
  }, 60_000);
});
