/** How fast the tables follow a Service, what that takes of memory, and what a roll does to datagrams meanwhile. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Agent } from '../lab/agent.ts';
import { numberedSlice } from '../lab/api/churn.ts';
import { aSlice } from '../lab/api/slices.ts';
import type { Pod } from '../lab/host.ts';
import { type SingleNode, singleNode } from '../lab/single-node.ts';
import { receive, startSending } from '../lab/traffic.ts';
import type { Bench, Figure, Report } from './report.ts';
import { ENDPOINTS, type Followed, followed, NAMESPACE, PER_SLICE, SLICES } from './rig/followed.ts';
import { TableWatch } from './rig/swaps.ts';

const EVENTS = 150;
/** Events come at any time, also while the reconciler rests after the last one. */
const PAUSE_MS = { least: 20, spread: 200 };
const STORM = { events: 1000, perSecond: 1000 };
const STORMS = 3;
const ROLL = { rate: 100_000, everyMs: 150 };
const IDLE_MS = 5000;
const UPDATED = /updated tc_ebpf downstream set listener_id=0 /;

export const discovery: Bench = {
  name: 'discovery',
  question: 'how soon do the tables follow a Service of 1000 endpoints, at which cost, and is anything lost?',
  run,
};

async function run(): Promise<Report> {
  const figures = [...(await following()), ...(await rolling()), await memory()];
  return { figures, notes: NOTES };
}

const NOTES = [
  'An event is timed from its write by the API server to the moment at which the kernel has another table.',
  'The log line comes later by the grace period in which the last datagram leaves the old table.',
  `Events change one endpoint of ${ENDPOINTS} in ${SLICES} slices; a swap rests for 50 ms after the one before.`,
  'The roll replaces one slice after the other by one in other pods; late: to an endpoint removed over 1 s before.',
];

async function following(): Promise<Figure[]> {
  using lab = singleNode({ pods: 1 });
  using both = await followed(lab.node, 1);
  const times = await eventTimes(both);
  const swaps: number[] = [];
  for (let storm = 0; storm < STORMS; storm++) swaps.push(await stormSwaps(both));
  await both.agent.stop();
  const swapped = times.map((time) => time.swapped);
  const logged = times.map((time) => time.logged);
  return [
    {
      what: 'event to table swapped, median',
      unit: 'ms',
      values: at(swapped, 0.5),
      target: { is: 'at most', value: 10 },
    },
    {
      what: 'event to table swapped, p99',
      unit: 'ms',
      values: at(swapped, 0.99),
      target: { is: 'at most', value: 50 },
    },
    { what: 'event to log line, median', unit: 'ms', values: at(logged, 0.5) },
    { what: 'event to log line, p99', unit: 'ms', values: at(logged, 0.99) },
    {
      what: 'swaps in a storm of 1000 events in 1 s',
      unit: '',
      values: swaps,
      decimals: 0,
      target: { is: 'at most', value: 20 },
    },
  ];
}

/** Of each event, the milliseconds from its write to the new table and to the line that says so. */
async function eventTimes({ agent, api }: Followed): Promise<{ swapped: number; logged: number }[]> {
  const times: { swapped: number; logged: number }[] = [];
  const tables = new TableWatch(agent.pid, 0, 4);
  for (let event = 0; event < EVENTS; event++) {
    await sleep(PAUSE_MS.least + Math.random() * PAUSE_MS.spread);
    const from = agent.lines.length;
    const old = tables.current();
    const unready = Math.floor(event / SLICES) % PER_SLICE;
    const applied = api.apply(NAMESPACE, numberedSlice('service-0', event % SLICES, PER_SLICE, unready));
    const swapped = tables.swapped(old, 1000);
    await agent.waitFor(UPDATED, { from });
    const logged = performance.timeOrigin + performance.now();
    const { at } = await applied;
    times.push({ swapped: swapped - at, logged: logged - at });
  }
  return times;
}

/** The value that a share of all values lies below, as a figure of one round. */
function at(values: readonly number[], share: number): number[] {
  const sorted = values.toSorted((a, b) => a - b);
  return [sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!];
}

/** Throws if the last state of the storm is not what is in use after it. */
async function stormSwaps({ agent, api }: Followed): Promise<number> {
  const from = agent.lines.length;
  const started = performance.now();
  await api.churn({ namespace: NAMESPACE, service: 'service-0', slices: SLICES, perSlice: PER_SLICE, ...STORM });
  const seconds = (performance.now() - started) / 1000;
  await sleep(500);
  const swaps = agent.lines.slice(from).filter((line) => UPDATED.test(line));
  if (!swaps.at(-1)?.endsWith(`endpoints=${ENDPOINTS}`)) throw new Error(`after the storm: ${swaps.at(-1)}`);
  return Math.ceil(swaps.length / Math.max(1, seconds));
}

async function rolling(): Promise<Figure[]> {
  using lab = singleNode({ pods: 2 * SLICES });
  for (const [index, pod] of lab.pods.entries()) giveNetwork(lab, pod, index);
  const [before, after] = [lab.pods.slice(0, SLICES), lab.pods.slice(SLICES)];
  using both = await followed(lab.node, 1, async (api) => {
    for (const slice of before.keys()) await api.apply(NAMESPACE, sliceIn(slice, slice));
  });
  await using at = await receive(lab.pods, { port: 9000 });
  const sending = await startSending(lab.client, { to: '10.0.0.1:9000', rate: ROLL.rate });
  await sleep(500);
  const late: Promise<number>[] = [];
  for (const slice of after.keys()) {
    await both.api.apply(NAMESPACE, sliceIn(slice, slice + SLICES));
    late.push(sleep(1000).then(async () => (await at.peek()).receivers[slice]!.count));
    await sleep(ROLL.everyMs);
  }
  const settled = await Promise.all(late);
  await sleep(500);
  const last = await at.peek();
  const afterRemoval = settled.map((count, slice) => last.receivers[slice]!.count - count);
  const sent = await sending.stop();
  const { count, errors } = await at.report({ expect: sent.count, limit: 20_000 });
  const books = await ledger(both.agent);
  await both.agent.stop();
  return [
    { what: 'datagrams a second during the roll', unit: 'k/s', values: [sent.count / sent.ms], decimals: 0 },
    figure(
      'late datagrams',
      afterRemoval.reduce((sum, one) => sum + one, 0),
    ),
    figure('datagrams lost for lack of a table', books.received - books.forwarded),
    figure('datagrams that did not reach a pod', sent.count - count - errors.RcvbufErrors),
    { what: 'datagrams dropped by a full receiver', unit: '', values: [errors.RcvbufErrors], decimals: 0 },
  ];
}

function figure(what: string, value: number): Figure {
  return { what, unit: '', values: [value], decimals: 0, target: { is: 'at most', value: 0 } };
}

/** The pod answers for a network of its own: one receiver stands for a slice full of pods. */
function giveNetwork({ node }: SingleNode, { namespace, ip, hostInterface, mac }: Pod, index: number): void {
  namespace.ip([`route add local ${networkOf(index)}.0/24 dev lo`]);
  node.namespace.ip([
    `neigh replace ${ip} lladdr ${mac} dev ${hostInterface} nud permanent`,
    `route add ${networkOf(index)}.0/24 via ${ip} dev ${hostInterface} onlink`,
  ]);
}

const networkOf = (pod: number) => `10.2.${pod}`;

function sliceIn(slice: number, pod: number) {
  const ips = Array.from({ length: PER_SLICE }, (_, index) => `${networkOf(pod)}.${index + 1}`);
  return aSlice(`service-0-${slice}`, ips, { service: 'service-0' });
}

async function ledger(agent: Agent): Promise<{ received: number; forwarded: number }> {
  const metrics = [...(await agent.metrics())];
  const sum = (name: string) =>
    metrics.reduce((all, [key, value]) => all + (key.startsWith(`udp_fanout_packets_${name}_total`) ? value : 0), 0);
  return { received: sum('received'), forwarded: sum('forwarded') };
}

async function memory(): Promise<Figure> {
  using lab = singleNode({ pods: 1 });
  using both = await followed(lab.node, SLICES);
  await sleep(IDLE_MS);
  const { status } = await both.agent.get('/metrics');
  if (status !== 200) throw new Error(`GET /metrics: ${status}, want 200`);
  for (let service = 0; service < SLICES; service++) {
    await both.api.apply(NAMESPACE, numberedSlice(`service-${service}`, 0, PER_SLICE, 0));
  }
  await sleep(1000);
  const text = readFileSync(`/proc/${both.agent.pid}/status`, 'utf8');
  const rss = Number(/^VmRSS:\s+(\d+) kB/m.exec(text)![1]) / 1024;
  await both.agent.stop();
  return {
    what: `RSS with ${SLICES} Services of ${ENDPOINTS} endpoints, after a scrape`,
    unit: 'MiB',
    values: [rss],
    decimals: 1,
    target: { is: 'at most', value: 160 },
  };
}
