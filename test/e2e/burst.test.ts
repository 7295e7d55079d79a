/** A burst at line rate on an interface that merges what it may: still each datagram to the next pod. */
import { describe, expect, test } from 'vitest';
import { attachAgent } from '../../bench/rig/attach-agent.ts';
import { Lane, LISTENER_PORT } from '../../bench/rig/lane.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';

const obstacle = labObstacle() ?? lacking('live_frames', 'clang');

describe.skipIf(obstacle)(titled('a burst', obstacle), () => {
  test('with GRO on, and the safety net under the program, is spread one by one', async () => {
    using lane = new Lane('udp-fanout');
    const { node, pods } = lane.topology;
    const downstreams = pods.map(({ address }) => address);
    const agent = await attachAgent(node, [{ bind: `0.0.0.0:${LISTENER_PORT}`, downstreams }]);
    const { sent, arrived, wrong } = await lane.prove(300);
    expect({ sent, arrived, wrong }).toEqual({ sent: 300, arrived: [100, 100, 100], wrong: 0 });
    await agent.stop();
  });
});
