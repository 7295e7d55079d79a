/** The real agent, with the rights of k8s/ and no others, under datagrams while its API server comes to harm. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { until } from '../../lab/patience.ts';
import type { SingleNode } from '../../lab/single-node.ts';
import { type Receivers, receive, type Sending, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { K8S } from '../deploy/tools.ts';
import type { ControlPlane } from './control-plane.ts';
import type { Report } from './report.ts';
import { PORT, Service } from './services.ts';

const ACTIVE = 'udp_fanout_downstream_active{listener="syslog"}';
const CONFIG = {
  listeners: [
    {
      name: 'syslog',
      bind: `0.0.0.0:${PORT}`,
      interface: 'eth0',
      mode: 'auto',
      kubernetes: { namespace: 'logging', service: 'vector-aggregators', port: PORT },
    },
  ],
  metrics: { enabled: true, bind: '127.0.0.1:9090' },
};
const RATE = 200;
const UNDER_WAY = 100;
const KILLED_MS = 20_000;
/** Longer than any silence that the agent takes for a healthy one, and than what it then waits for an answer. */
const FROZEN_MS = 150_000;
/** After an outage: the longest pause between two tries, and a list. */
const BACK_MS = 60_000;

interface Scene {
  readonly lab: SingleNode;
  readonly plane: ControlPlane;
  readonly service: Service;
  readonly agent: Agent;
  readonly ips: readonly string[];
}

export async function checkAgent(lab: SingleNode, plane: ControlPlane, report: Report): Promise<void> {
  plane.kubectl('apply', '-k', K8S);
  const service = new Service(plane, 'logging', 'vector-aggregators');
  const ips = lab.pods.map(({ ip }) => ip);
  await service.has(ips);
  const token = await plane.tokenOf('udp-fanout', 'udp-fanout');
  const agent = startAgent(lab.node, CONFIG, { env: { KUBECONFIG: plane.login('agent', token, 'inside') } });
  const scene = { lab, plane, service, agent, ips };
  try {
    await report.check('agent: finds its receivers with the rights of k8s/', () => counts(agent, ips.length, BACK_MS));
    await report.check('agent: one receiver goes and comes back, nothing is lost', () =>
      underDatagrams(scene, replaced),
    );
    const killed = `agent: the API server is killed for ${KILLED_MS / 1000} s, nothing is lost, the next change is followed`;
    await report.check(killed, () => underDatagrams(scene, kill));
    const frozen = `agent: the API server is frozen for ${FROZEN_MS / 1000} s, nothing is lost, the next change is followed`;
    await report.check(frozen, () => underDatagrams(scene, freeze));
    await report.check('agent: stops in good order', async () => assert.equal((await agent.stop()).code, 0));
  } finally {
    agent.kill('SIGKILL');
    await agent.ended;
  }
}

async function replaced({ service, agent, ips }: Scene): Promise<void> {
  await service.has(ips.slice(1));
  await counts(agent, ips.length - 1, 5000);
  await service.has(ips);
  await counts(agent, ips.length, 5000);
}

async function kill(scene: Scene): Promise<void> {
  const { plane, agent, ips } = scene;
  await plane.killApi();
  try {
    await stays(agent, ips.length, KILLED_MS);
  } finally {
    await plane.startApi();
  }
  await followsAgain(scene);
}

async function freeze(scene: Scene): Promise<void> {
  const { plane, agent, ips } = scene;
  plane.freeze();
  try {
    await stays(agent, ips.length, FROZEN_MS);
  } finally {
    plane.thaw();
  }
  await followsAgain(scene);
}

async function followsAgain({ service, agent, ips }: Scene): Promise<void> {
  await service.has(ips.slice(1));
  await counts(agent, ips.length - 1, BACK_MS);
  await service.has(ips);
  await counts(agent, ips.length, 5000);
}

/** Does it while datagrams come, and throws unless each of them arrived exactly once. */
async function underDatagrams(scene: Scene, what: (scene: Scene) => Promise<void>): Promise<void> {
  const { lab } = scene;
  const receivers: Receivers = await receive(lab.pods);
  const sending: Sending = await startSending(lab.client, { to: `${lab.node.ip}:${PORT}`, rate: RATE });
  try {
    await underWay(receivers);
    await what(scene);
    const sent = await sending.stop();
    const came = await receivers.report({ expect: sent.count });
    assert.ok(sent.count > UNDER_WAY, `${sent.count} datagrams were sent`);
    const { received, missing, duplicated } = union(came, sent);
    assert.deepEqual({ received, missing, duplicated }, { received: sent.count, missing: [], duplicated: [] });
  } finally {
    await sending.stop();
    receivers.close();
  }
}

/** Until so many have come that all parts of the way are known to work. */
async function underWay(receivers: Receivers): Promise<void> {
  const came = async () => (await receivers.peek()).count >= UNDER_WAY;
  await until(`${UNDER_WAY} datagrams`, came, { limit: BACK_MS, every: 100 });
}

async function active(agent: Agent): Promise<number | undefined> {
  return (await agent.metrics()).get(ACTIVE);
}

/** Until the agent has so many downstreams; throws with its log where it has not in time. */
async function counts(agent: Agent, wanted: number, withinMs: number): Promise<void> {
  let found: number | undefined;
  const has = async () => {
    found = await active(agent).catch(() => undefined);
    return found === wanted;
  };
  await until(`${wanted} downstreams`, has, { limit: withinMs, every: 100 }).catch((error: Error) => {
    throw new Error(`${error.message}, found ${found}; its log:\n${agent.lines.join('\n')}`);
  });
}

async function stays(agent: Agent, wanted: number, forMs: number): Promise<void> {
  const end = performance.now() + forMs;
  while (performance.now() < end) {
    assert.equal(await active(agent), wanted, `downstreams; its log:\n${agent.lines.join('\n')}`);
    await sleep(500);
  }
}
