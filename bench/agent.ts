/** What the agent itself costs: memory when idle, time to start and to stop. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Namespace } from '../lab/namespace.ts';
import { singleNode } from '../lab/single-node.ts';
import type { Bench, Report } from './report.ts';
import { attachAgent } from './rig/attach-agent.ts';

const RUNS = 5;
const IDLE_MS = 5000;
const LISTENER_PORT = 5514;
/** What any Node program pays. */
const EMPTY_PROGRAM = 'setInterval(() => {}, 1e9); console.log()';

/** Times in milliseconds. */
interface Run {
  readonly attached: number;
  readonly exit: number;
  readonly idle: Memory;
  readonly scraped: Memory;
  readonly emptyStart: number;
  readonly empty: Memory;
}

interface Memory {
  /** MiB of physical memory, shared pages in full. */
  readonly rss: number;
  /** MiB, shared pages in proportion. */
  readonly pss: number;
}

export const agent: Bench = {
  name: 'agent',
  question: 'how much memory does the idle agent take, and how long do start and stop take?',
  run,
};

async function run(): Promise<Report> {
  const runs: Run[] = [];
  for (let index = 0; index < RUNS; index++) runs.push(await runOnce());
  const of = (pick: (one: Run) => number) => runs.map(pick);
  const [most80, most500] = [{ is: 'at most', value: 80 } as const, { is: 'at most', value: 500 } as const];
  return {
    figures: [
      { what: 'RSS, idle', unit: 'MiB', values: of(({ idle }) => idle.rss), decimals: 1, target: most80 },
      {
        what: 'RSS, after a scrape',
        unit: 'MiB',
        values: of(({ scraped }) => scraped.rss),
        decimals: 1,
        target: most80,
      },
      { what: 'PSS, idle', unit: 'MiB', values: of(({ idle }) => idle.pss), decimals: 1 },
      { what: 'PSS, after a scrape', unit: 'MiB', values: of(({ scraped }) => scraped.pss), decimals: 1 },
      { what: 'RSS of an empty Node process', unit: 'MiB', values: of(({ empty }) => empty.rss), decimals: 1 },
      { what: 'start to attached', unit: 'ms', values: of(({ attached }) => attached), decimals: 0, target: most500 },
      { what: 'start of an empty Node process', unit: 'ms', values: of(({ emptyStart }) => emptyStart), decimals: 0 },
      {
        what: 'SIGTERM to exit',
        unit: 'ms',
        values: of(({ exit }) => exit),
        decimals: 0,
        target: { is: 'below', value: 2000 },
      },
    ],
    notes: [`One static listener, metrics on; idle means ${IDLE_MS / 1000} s after it has attached.`],
  };
}

async function runOnce(): Promise<Run> {
  using topology = singleNode({ pods: 1 });
  const { node, pods } = topology;
  const listeners = [{ bind: `0.0.0.0:${LISTENER_PORT}`, downstreams: pods.map(({ address }) => address) }];
  const emptyProgram = await startEmpty(node.namespace);
  const start = performance.now();
  const agent = await attachAgent(node, listeners, { metrics: true });
  const attached = performance.now() - start;
  await sleep(IDLE_MS);
  const [idle, empty] = [memoryOf(agent.pid), memoryOf(emptyProgram.pid)];
  const { status } = await agent.get('/metrics');
  if (status !== 200) throw new Error(`GET /metrics: ${status}, want 200`);
  const scraped = memoryOf(agent.pid);
  const { code, ms: exit } = await agent.stop();
  if (code !== 0) throw new Error(`the agent ended with ${code}, want 0; its log:\n${agent.lines.join('\n')}`);
  return { attached, exit, idle, scraped, emptyStart: emptyProgram.ms, empty };
}

/** A Node process that does nothing; it ends with the lab. */
async function startEmpty(namespace: Namespace): Promise<{ readonly pid: number; readonly ms: number }> {
  const start = performance.now();
  const child = namespace.spawn(process.execPath, ['-e', EMPTY_PROGRAM], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout!, 'data');
  return { pid: child.pid!, ms: performance.now() - start };
}

/** proc_pid_status(5), proc_pid_smaps(5). */
function memoryOf(pid: number): Memory {
  const mib = (file: string, label: string) => {
    const text = readFileSync(`/proc/${pid}/${file}`, 'utf8');
    return Number(new RegExp(`^${label}:\\s+(\\d+) kB`, 'm').exec(text)![1]) / 1024;
  };
  return { rss: mib('status', 'VmRSS'), pss: mib('smaps_rollup', 'Pss') };
}
