/** What it costs to probe a thousand downstreams. */
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Agent, type AgentOptions, startAgent } from '../lab/agent.ts';
import type { Host } from '../lab/host.ts';
import { singleNode } from '../lab/single-node.ts';
import type { Bench, Figure, Report, Target } from './report.ts';
import type { LoopDelay } from './rig/loop-delay.ts';

const DOWNSTREAMS = 1000;
const INTERVAL_SECS = 5;
const RUNS = 3;
const MEASURED_MS = 3 * INTERVAL_SECS * 1000;
/** Addresses that the pod answers for, all of them behind its one link. */
const RANGE = '10.20.0.0/16';
const PRELOAD = join(import.meta.dirname, 'rig/loop-delay.ts');

const PROTOCOLS = ['icmp', 'udp_echo'] as const;
type Protocol = (typeof PROTOCOLS)[number];

/** Receivers on ports of their own that send everything back. */
const FIRST_PORT = 10_000;
const ECHO = `for (let port = ${FIRST_PORT}; port < ${FIRST_PORT + DOWNSTREAMS}; port++) {
  const s = require('node:dgram').createSocket('udp4');
  s.on('message', (m, f) => s.send(m, f.port, f.address)).bind(port);
}
console.log();`;

interface Run {
  /** Per cent of one core. */
  readonly cpu: number;
  /** Probes a second. */
  readonly answered: number;
  readonly unanswered: number;
  readonly delay: LoopDelay;
}

export const health: Bench = {
  name: 'health',
  question: `what do probes of ${DOWNSTREAMS} downstreams every ${INTERVAL_SECS} s cost?`,
  run,
};

async function run(): Promise<Report> {
  using topology = singleNode({ pods: 1 });
  const { node, pods } = topology;
  const pod = pods[0]!;
  node.namespace.ip([`route add ${RANGE} via ${pod.ip} dev ${pod.hostInterface} onlink`]);
  pod.namespace.ip([`route add local ${RANGE} dev lo`]);
  const echo = pod.namespace.spawn(process.execPath, ['-e', ECHO], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(echo.stdout!, 'data');
  const downstreams: Record<Protocol, string[]> = {
    icmp: numbers((index) => `10.20.${index >> 8}.${index & 255}:9000`),
    udp_echo: numbers((index) => `${pod.ip}:${FIRST_PORT + index}`),
  };
  const idle: number[] = [];
  const runs: Record<Protocol, Run[]> = { icmp: [], udp_echo: [] };
  for (let round = 0; round < RUNS; round++) {
    idle.push((await costOf(node, downstreams.icmp, { enabled: false })).cpu);
    for (const protocol of PROTOCOLS) {
      const health = { protocol, interval_secs: INTERVAL_SECS };
      const cost = await costOf(node, downstreams[protocol], health);
      runs[protocol].push({ ...cost, delay: await delayOf(node, downstreams[protocol], health) });
    }
  }
  return {
    figures: [
      { what: 'CPU of one core, without health', unit: '%', values: idle },
      ...PROTOCOLS.flatMap((protocol) => figuresOf(protocol, runs[protocol])),
    ],
    notes: [
      `${DOWNSTREAMS} downstreams behind one pod, all alive; CPU of the whole agent over ${MEASURED_MS / 1000} s.`,
      'The event loop is sampled each millisecond, in an agent of its own; that millisecond is in its figures.',
    ],
  };
}

function figuresOf(protocol: Protocol, runs: readonly Run[]): Figure[] {
  const of = (pick: (one: Run) => number) => runs.map(pick);
  const cpu: Target = { is: 'below', value: 3 };
  const delay: Target = { is: 'at most', value: 20 };
  return [
    { what: `CPU of one core, ${protocol}`, unit: '%', values: of((one) => one.cpu), target: cpu },
    { what: `event loop late, p99, ${protocol}`, unit: 'ms', values: of((one) => one.delay.p99), target: delay },
    { what: `event loop late, most, ${protocol}`, unit: 'ms', values: of((one) => one.delay.max) },
    { what: `probes, ${protocol}`, unit: '/s', values: of((one) => one.answered), decimals: 0 },
    { what: `probes without an answer, ${protocol}`, unit: '/s', values: of((one) => one.unanswered) },
  ];
}

/** The agent's CPU and probes over the measured time. */
async function costOf(node: Host, downstreams: readonly string[], health: object): Promise<Omit<Run, 'delay'>> {
  const agent = await settled(node, downstreams, health);
  const metricsBefore = await agent.metrics();
  const before = { at: performance.now(), cpu: cpuSeconds(agent.pid) };
  await sleep(MEASURED_MS);
  const cpu = cpuSeconds(agent.pid) - before.cpu;
  const seconds = (performance.now() - before.at) / 1000;
  const metrics = await agent.metrics();
  await agent.stop();
  const rate = (outcome: string) => {
    const key = `udp_fanout_health_probes_total{outcome="${outcome}"}`;
    return (metrics.get(key)! - metricsBefore.get(key)!) / seconds;
  };
  return { cpu: (cpu / seconds) * 100, answered: rate('answered'), unanswered: rate('unanswered') };
}

async function delayOf(node: Host, downstreams: readonly string[], health: object): Promise<LoopDelay> {
  const agent = await settled(node, downstreams, health, { env: { NODE_OPTIONS: `--import=${PRELOAD}` } });
  agent.kill('SIGUSR2');
  await agent.waitFor(/^loop delay/);
  const from = agent.lines.length;
  await sleep(MEASURED_MS);
  agent.kill('SIGUSR2');
  const line = await agent.waitFor(/^loop delay/, { from });
  await agent.stop();
  return JSON.parse(line.slice('loop delay '.length)) as LoopDelay;
}

/** An agent that has probed everything once. */
async function settled(
  node: Host,
  downstreams: readonly string[],
  health: object,
  options?: AgentOptions,
): Promise<Agent> {
  const downstream = downstreams.map((address) => ({ address }));
  const listeners = [{ name: 'bench', bind: '0.0.0.0:5514', interface: node.nic, mode: 'tc_ebpf', downstream }];
  const agent = startAgent(node, { listeners, health, metrics: { enabled: true, bind: '127.0.0.1:9090' } }, options);
  await agent.waitFor(/attached TC eBPF program/);
  await sleep(INTERVAL_SECS * 1000 + 500);
  return agent;
}

/** Of all threads; in nanoseconds, which /proc/PID/stat is too coarse for (proc_pid_schedstat: time on the CPU first). */
function cpuSeconds(pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`);
  const ns = threads.map((thread) =>
    Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]),
  );
  return ns.reduce((sum, each) => sum + each, 0) / 1e9;
}

function numbers(text: (index: number) => string): string[] {
  return Array.from({ length: DOWNSTREAMS }, (_, index) => text(index));
}
