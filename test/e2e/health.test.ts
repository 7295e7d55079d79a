/** Health against real pods: real ICMP and ICMPv6, real links that go down, real filters, a real want of capabilities. */
import { once } from 'node:events';
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, type AgentOptions, startAgent } from '../../lab/agent.ts';
import { loses } from '../../lab/books.ts';
import { calicoBgp } from '../../lab/calico-bgp.ts';
import type { Host, Pod, Topology } from '../../lab/host.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient, pause, until } from '../../lab/patience.ts';
import { singleNode } from '../../lab/single-node.ts';
import { type Receivers, receive, send, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const INTERVAL_MS = patient(1000);
const TIMEOUT_MS = patient(500);
/** As the log says it. */
const TIMEOUT_S = TIMEOUT_MS / 1000;
/** For a machine with two busy cores; the promise itself has none. */
const SLACK_MS = patient(400);
const RATE = 2000;
/** The dead one's share, of two at least, until it is out of the table. */
const MOST_LOST = (RATE / 2) * ((INTERVAL_MS + TIMEOUT_MS + SLACK_MS) / 1000);

const obstacle = labObstacle();
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function built<T extends Topology>(topology: T): T {
  cleanUps.push(() => topology.close());
  return topology;
}

interface Options extends AgentOptions {
  readonly health?: object;
}

/** The agent with health checks as quick as they can be. */
async function started(node: Host, bind: string, pods: readonly Pod[], { health = {}, ...options }: Options = {}) {
  const quick = { interval_secs: INTERVAL_MS / 1000, timeout_secs: TIMEOUT_MS / 1000, ...health };
  const wanted = config(listener({ bind, interface: node.nic, downstream: pods }));
  const agent = startAgent(node, { ...wanted, health: quick }, options);
  cleanUps.push(() => agent.stop());
  await agent.waitFor(/attached TC eBPF program to ingress/);
  return agent;
}

/** Waits until every downstream's condition comes from answers. */
async function probed(agent: Agent, answers: number): Promise<void> {
  const enough = async () => (await probes(agent, 'answered')) >= answers;
  await until(`${answers} answers`, enough, { every: 50 }).catch((error) => {
    throw new Error(`${error.message}; its log:\n${agent.lines.join('\n')}`);
  });
}

async function probes(agent: Agent, outcome: string): Promise<number> {
  return (await agent.metrics()).get(`udp_fanout_health_probes_total{outcome="${outcome}"}`) ?? 0;
}

async function health(agent: Agent, pods: readonly Pod[]): Promise<readonly (number | undefined)[]> {
  const metrics = await agent.metrics();
  return pods.map(({ address }) => metrics.get(`udp_fanout_downstream_health{listener="test",endpoint="${address}"}`));
}

/** When a log line was written, as performance.now() would have it. */
const timeOf = (line: string) => Date.parse(line.slice(0, 24)) - performance.timeOrigin;

/** Lines that the operator finds with the guide's grep. */
const failures = (agent: Agent) => agent.lines.filter((line) => /health.*failed/.test(line));

const UNTIL_ANSWERED = 'out of use until 2 probes in a row are answered';

interface Death {
  readonly client: Host;
  readonly agent: Agent;
  readonly to: string;
  readonly pods: readonly Pod[];
  readonly dead: Pod;
  readonly die: () => void;
  /** What follows, as its line says. */
  readonly next?: string;
}

/** Numbered datagrams while a receiver dies: what is lost is lost between its death and its way out of the table. */
async function expectOutInTime({
  client,
  agent,
  to,
  pods,
  dead,
  die,
  next = UNTIL_ANSWERED,
}: Death): Promise<Receivers> {
  const at = await receive(pods);
  cleanUps.push(() => at.close());
  const sending = await startSending(client, { to, rate: RATE, cpu: 0 });
  await until('traffic', async () => (await at.peek()).count >= 400);
  const from = agent.lines.length;
  const died = performance.now();
  die();
  const line = await agent.waitFor(/health probe failed/, { from });
  expect(line).toContain(
    `listener="test" downstream="${dead.address}" protocol="icmp" cause="no answer in ${TIMEOUT_S} s`,
  );
  expect(line).toContain(`next="${next}"`);
  const updated = await agent.waitFor(new RegExp(`updated tc_ebpf downstream set .*endpoints=${pods.length - 1}$`), {
    from,
  });
  expect(timeOf(updated) - died).toBeLessThanOrEqual(INTERVAL_MS + TIMEOUT_MS + SLACK_MS);
  await pause(200);
  const sent = await sending.stop();
  const report = await at.report({ quiet: 200 });
  const { received, missing, duplicated } = union(report, sent);
  expect(duplicated).toEqual([]);
  expect(received).toBeGreaterThanOrEqual(400);
  expect(missing, 'the dead one lost some').not.toEqual([]);
  // Lost numbers lie close together: from the death to the new table.
  const lostFor = ((missing.at(-1)!.last - missing[0]!.first) / sent.count) * sent.ms;
  expect(lostFor).toBeLessThanOrEqual(INTERVAL_MS + TIMEOUT_MS + SLACK_MS);
  const after = await send(client, { to, count: 300 });
  expect(union(await at.report({ expect: 300 }), after)).toEqual({ received: 300, missing: [], duplicated: [] });
  expect(await health(agent, pods)).toEqual(pods.map((pod) => (pod === dead ? 0 : 1)));
  expect((await agent.metrics()).get('udp_fanout_downstream_active{listener="test"}')).toBe(pods.length - 1);
  return at;
}

describe.skipIf(obstacle)(titled('a receiver whose link goes down', obstacle), () => {
  test('is out within interval + timeout, and back when its link is', async () => {
    loses('a bridge floods what is for a station that it has forgotten, and nobody counts that', { atMost: MOST_LOST });
    const { client, node, pods } = built(singleNode({ wiring: 'bridged' }));
    const agent = await started(node, '0.0.0.0:9000', pods);
    await probed(agent, 3);
    const dead = pods[1]!;
    const set = (state: 'up' | 'down') => node.namespace.ip([`link set ${dead.hostInterface} ${state}`]);
    const next = 'out of use until there is a way to it';
    const at = await expectOutInTime({ client, agent, to: '10.0.0.1:9000', pods, dead, die: () => set('down'), next });
    expect(await agent.get('/readyz')).toMatchObject({
      status: 200,
      body: `ok\nhealth(test): no way to ${dead.address} (link ${dead.hostInterface} is down)\n`,
    });

    const from = agent.lines.length;
    set('up');
    const recovered = await agent.waitFor(/health recovered/, { from });
    expect(recovered).toContain(`downstream="${dead.address}" protocol="icmp" answered=2 next="in use again"`);
    await agent.waitFor(/updated tc_ebpf downstream set .*endpoints=3$/, { from });
    const sent = await send(client, { to: '10.0.0.1:9000', count: 300, cpu: 0 });
    const report = await at.report({ expect: 300 });
    expect(union(report, sent)).toEqual({ received: 300, missing: [], duplicated: [] });
    expect(report.receivers.every(({ count }) => count >= 99)).toBe(true);
    expect(await ledger(agent, 'test', { atLeast: 1000 })).toMatchObject({ dropped: {} });
    expect(await health(agent, pods)).toEqual([1, 1, 1]);
    expect(await probes(agent, 'unsent')).toBe(0);
  });

  test('is out as soon over IPv6, on another node', async () => {
    loses('the node of the dead pod has no agent', { atMost: MOST_LOST });
    const { client, router, a, b, pods, vips } = built(calicoBgp());
    // Node b has no agent.
    router.namespace.ip([`route add ${vips[0]} via ${a.ip}`]);
    const agent = await started(a, `[${vips[0]}]:5514`, pods);
    await probed(agent, 2);
    const dead = pods[1];
    const die = () => b.namespace.ip([`link set ${dead.hostInterface} down`]);
    await expectOutInTime({ client, agent, to: `[${vips[0]}]:5514`, pods, dead, die });
  });

  test('is out long before its next probe is due where the kernel cannot resolve it', async () => {
    const { client, node, pods } = built(singleNode({ pods: 2 }));
    const agent = await started(node, '0.0.0.0:9000', pods, { health: { interval_secs: patient(60) } });
    // The first downstream is probed at once, the second after 37 s.
    await probed(agent, 1);
    const dead = pods[0]!;
    node.namespace.sysctl({ [`net/ipv4/neigh/${dead.hostInterface}/retrans_time_ms`]: 100 });
    dead.namespace.ip(['addr del 10.0.1.10/32 dev eth0']);
    node.namespace.ip([`neigh flush dev ${dead.hostInterface}`]);
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: 100, least: 10 });
    const line = await agent.waitFor(/health path failed/);
    await sending.stop();
    expect(line).toContain(`downstream="${dead.address}" cause="neighbour 10.0.1.10 does not answer"`);
  });
});

describe.skipIf(obstacle)(titled('probes that say too much', obstacle), () => {
  const noFilter = lacking('nftables');
  const filtered = titled(
    'where every receiver filters ICMP, forwarding is as without health, and one line says so',
    noFilter,
  );
  test.skipIf(noFilter)(filtered, async () => {
    const { client, node, pods } = built(singleNode());
    const agent = await started(node, '0.0.0.0:9000', pods);
    await probed(agent, 3);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: RATE, cpu: 0 });
    const from = agent.lines.length;
    for (const { namespace } of pods) {
      namespace.run('nft', ['add table inet filter; add chain inet filter in { type filter hook input priority 0; }']);
      namespace.run('nft', ['add rule inet filter in icmp type echo-request drop']);
    }
    await agent.waitFor(/WARN health probes of all downstreams failed: all stay in use \(fail_open\) listener="test"/, {
      from,
    });
    await agent.waitFor(/updated tc_ebpf downstream set .*endpoints=3$/, { from });
    const sent = await sending.stop();
    const report = await at.report({ expect: sent.count });
    expect(union(report, sent)).toEqual({ received: sent.count, missing: [], duplicated: [] });
    const evenly = await send(client, { to: '10.0.0.1:9000', count: 300, cpu: 0 });
    const spread = await at.report({ expect: 300 });
    expect(union(spread, evenly)).toEqual({ received: 300, missing: [], duplicated: [] });
    for (const { count } of spread.receivers) expect(Math.abs(count - 100)).toBeLessThanOrEqual(1);
    expect(await health(agent, pods)).toEqual([0, 0, 0]);
    expect((await agent.metrics()).get('udp_fanout_health_fail_open{listener="test"}')).toBe(1);
    expect(await agent.get('/readyz')).toMatchObject({
      status: 200,
      body: 'ok\nhealth(test): the probes of all IPv4 downstreams failed: all stay in use (fail_open)\n',
    });
    expect(await ledger(agent, 'test', sent.count + 300)).toMatchObject({ dropped: {}, toSafetyNet: {} });

    for (const { namespace } of pods) namespace.run('nft', ['delete table inet filter']);
    await agent.waitFor(/health fail open ended/, { from });
    expect(await agent.get('/readyz')).toMatchObject({ status: 200, body: 'ok\n' });
  });

  test('without NET_RAW the agent goes on, says once what is missing, and all stay in', async () => {
    const { client, node, pods } = built(singleNode());
    const under = ['setpriv', '--bounding-set', '-all,+bpf,+net_admin,+perfmon'];
    const agent = await started(node, '0.0.0.0:9000', pods, { under });
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const sent = await send(client, { to: '10.0.0.1:9000', count: 300 });
    expect(union(await at.report({ expect: 300 }), sent)).toEqual({ received: 300, missing: [], duplicated: [] });
    expect(failures(agent).map((line) => line.slice(25))).toEqual([
      'WARN health probes failed to start: permission denied: missing capability NET_RAW: add it under securityContext.capabilities.add (k8s/daemonset.yaml) protocol="icmp" next="health is unknown and all downstreams but unready ones stay in use"',
    ]);
    expect(await health(agent, pods)).toEqual([1, 1, 1]);
    expect(await agent.get('/readyz')).toMatchObject({ status: 200, body: expect.stringContaining('NET_RAW') });
  });
});

/** What receivers may do with a datagram; the agent's probes are the only ones that they hear. */
const RECEIVERS = {
  echoes: 's.send(m, f.port, f.address)',
  silent: '',
  lies: "s.send(Buffer.concat([m, Buffer.from('!')]), f.port, f.address)",
};

async function startReceiver({ namespace, port }: Pod, behaviour: keyof typeof RECEIVERS) {
  const script = `const s = require('node:dgram').createSocket('udp4');
    s.on('message', (m, f) => { ${RECEIVERS[behaviour]} }).bind(${port}, () => console.log('bound'));`;
  const child = namespace.spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout!, 'data');
  return child;
}

describe.skipIf(obstacle)(titled('udp_echo', obstacle), () => {
  test('takes in who echoes, and out who is silent, lies or has no receiver', async () => {
    const { node, pods } = built(singleNode({ pods: 4 }));
    const [echoes, silent, lies, none] = pods as [Pod, Pod, Pod, Pod];
    await Promise.all([startReceiver(echoes, 'echoes'), startReceiver(silent, 'silent'), startReceiver(lies, 'lies')]);
    const agent = await started(node, '0.0.0.0:9001', pods, { health: { protocol: 'udp_echo' } });
    await agent.waitFor(/updated tc_ebpf downstream set .*endpoints=1$/);
    expect(await health(agent, pods)).toEqual([1, 0, 0, 0]);
    const causeOf = ({ address }: Pod) =>
      /cause="([^"]*)"/.exec(failures(agent).find((line) => line.includes(address)) ?? '')?.[1];
    expect([echoes, silent, lies, none].map(causeOf)).toEqual([
      undefined,
      `no answer in ${TIMEOUT_S} s`,
      `none but wrong answers in ${TIMEOUT_S} s`,
      `no answer in ${TIMEOUT_S} s, port unreachable`,
    ]);
    // Whoever mends his ways is taken in again.
    const from = agent.lines.length;
    await startReceiver(none, 'echoes');
    await agent.waitFor(/health recovered .*10\.0\.1\.13:9000/, { from });
    expect(await health(agent, pods)).toEqual([1, 0, 0, 1]);
  });
});

describe.skipIf(obstacle)(titled('udp_port', obstacle), () => {
  test('a process that dies in a pod that lives is out in time, and back when it listens again', async () => {
    const { client, node, pods } = built(singleNode());
    const receivers = await Promise.all(pods.map((pod) => startReceiver(pod, 'silent')));
    const agent = await started(node, '0.0.0.0:9000', pods, { health: { protocol: 'udp_port' } });
    await probed(agent, 9);
    // All are silent, and none was ever out.
    expect(failures(agent)).toEqual([]);
    expect(await health(agent, pods)).toEqual([1, 1, 1]);

    const sending = await startSending(client, { to: '10.0.0.1:9000', rate: RATE, cpu: 0 });
    const from = agent.lines.length;
    const died = performance.now();
    receivers[1]!.kill('SIGKILL');
    const line = await agent.waitFor(/health probe failed/, { from });
    expect(line).toContain(`downstream="${pods[1]!.address}" protocol="udp_port" cause="port unreachable"`);
    const updated = await agent.waitFor(/updated tc_ebpf downstream set .*endpoints=2$/, { from });
    expect(timeOf(updated) - died).toBeLessThanOrEqual(INTERVAL_MS + TIMEOUT_MS + SLACK_MS);
    // Errors are rare by the kernel's own limit: that must not bring it back.
    await pause(6 * INTERVAL_MS);
    await sending.stop();
    expect(await health(agent, pods)).toEqual([1, 0, 1]);
    expect(agent.lines.slice(from).filter((one) => /health recovered/.test(one))).toEqual([]);

    await startReceiver(pods[1]!, 'silent');
    await agent.waitFor(/updated tc_ebpf downstream set .*endpoints=3$/, { from });
    expect(await health(agent, pods)).toEqual([1, 1, 1]);
    expect(await ledger(agent, 'test', { atLeast: 1000 })).toMatchObject({ dropped: {} });
  });

  test('where all ports are closed, all stay in use (fail_open), and a host that is gone is out', async () => {
    const { node, pods } = built(singleNode({ pods: 2 }));
    const agent = await started(node, '0.0.0.0:9000', pods, { health: { protocol: 'udp_port' } });
    await agent.waitFor(/health probes of all downstreams failed: all stay in use \(fail_open\)/);
    expect((await agent.metrics()).get('udp_fanout_downstream_active{listener="test"}')).toBe(2);
    await startReceiver(pods[0]!, 'silent');
    await startReceiver(pods[1]!, 'silent');
    const from = agent.lines.length;
    await agent.waitFor(/health fail open ended/, { from });
    pods[1]!.namespace.ip(['addr del 10.0.1.11/32 dev eth0']);
    await agent.waitFor(/updated tc_ebpf downstream set .*endpoints=1$/, { from });
  });

  test('without NET_RAW a closed port is still noticed, and what is not is said', async () => {
    const { node, pods } = built(singleNode());
    await startReceiver(pods[0]!, 'silent');
    await startReceiver(pods[1]!, 'silent');
    const under = ['setpriv', '--bounding-set', '-all,+bpf,+net_admin,+perfmon'];
    const agent = await started(node, '0.0.0.0:9000', pods, { under, health: { protocol: 'udp_port' } });
    await agent.waitFor(/updated tc_ebpf downstream set .*endpoints=2$/);
    expect(await health(agent, pods)).toEqual([1, 1, 0]);
    expect(failures(agent)[0]).toMatch(
      /health probes failed to start: .*NET_RAW.* protocol="udp_port" next="a closed port is still noticed, a host that is gone is not"$/,
    );
    expect(await agent.get('/readyz')).toMatchObject({ status: 200, body: expect.stringContaining('NET_RAW') });
  });
});
