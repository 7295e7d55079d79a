/** What the worker pool does for its CPU time, beside a good forwarder in C and what people use instead. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Bench, eachRound, type Figure, type Report, type Target } from './report.ts';
import { Course, type Load } from './userspace/course.ts';
import { addedDelay } from './userspace/delay.ts';
import { agent, type Forwarder, kernelPath, nginx, type Peer, reference, socat } from './userspace/forwarders.ts';

const ROUNDS = 5;
const FILL_SECONDS = 0.5;
const STEADY_SECONDS = 60;
const PEER_SECONDS = 2;

const ONE: Load = { rate: 0, sources: 1, smallest: 200, largest: 200 };
const THOUSAND: Load = { rate: 0, sources: 1000, smallest: 200, largest: 200 };
const MIXED: Load = { rate: 0, sources: 1, smallest: 80, largest: 400 };
const SMALL: Load = { rate: 0, sources: 1, smallest: 64, largest: 64 };
/** Datagrams a second, for how many seconds, and the most microseconds that they may be late. */
const DELAYS = [
  [50_000, 0.2, 300],
  [10, 5, 200],
] as const;
const DELAY_ROUNDS = 7;
/** More than these peers can take, so that they show what they can. */
const FOR_PEERS: Load = { ...ONE, rate: 100_000 };

const atLeast = (value: number): Target => ({ is: 'at least', value });
const atMost = (value: number): Target => ({ is: 'at most', value });

export const userspace: Bench = {
  name: 'userspace',
  question: 'how many datagrams does a CPU-second of the worker pool forward, how late, and in how much memory?',
  run,
};

async function run(): Promise<Report> {
  const notes = [
    'Throughput: a stopped forwarder with a full receive buffer is let go; datagrams delivered per CPU-second of it.',
    'One source, 200 B: the NIC coalesces (GRO) as nearly all do by default; beside it, the same without.',
    'nginx and socat are sent more than they take, and held against ours without coalescing; socat cannot spread.',
    'Latency: arrival at the pod by its kernel, less that of the direct way; what holds up the machine holds up C too.',
  ];
  const figures: Figure[] = [];
  {
    using course = new Course(true);
    figures.push(...(await race(course, 'one source, 200 B', ONE, 3)));
    figures.push(...(await race(course, '1000 sources in turn, 200 B', THOUSAND, 0.9)));
    figures.push(...(await race(course, 'one source, 80 - 400 B', MIXED, 1)));
  }
  {
    using course = new Course(false);
    const uncoalesced = await race(course, 'one source, 200 B, NIC does not coalesce', ONE);
    figures.push(...uncoalesced, ...(await others(course, uncoalesced[1]!.values, notes)));
    figures.push(...(await steady(course)), ...(await delays(course)), ...(await memory(course)));
  }
  return { figures, notes };
}

/** Thousands of datagrams per CPU-second, of the reference and of ours, and their ratios. */
async function race(course: Course, what: string, load: Load, target?: number): Promise<Figure[]> {
  const peers = [reference, agent('nat'), agent('preserve')];
  const paces = peers.map((): number[] => []);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [at, peer] of peers.entries()) {
      const pace = await withForwarder(course, peer, (forwarder) => course.drain(forwarder, load, FILL_SECONDS));
      paces[at]!.push(pace.delivered / pace.cpuSeconds / 1000);
    }
  }
  const ratio = (at: number) => eachRound(paces[at]!, paces[0]!, (ours, theirs) => ours / theirs);
  return [
    ...peers.map(({ name }, at) => ({ what: `${what}: ${name}`, unit: 'k/CPU-s', values: paces[at]!, decimals: 0 })),
    ...[1, 2].map((at) => ({
      what: `${what}: ${peers[at]!.name} / C`,
      unit: '',
      values: ratio(at),
      ...(target === undefined ? {} : { target: atLeast(target) }),
    })),
  ];
}

/** What people use instead, at its limit, beside our pace at ours. */
async function others(course: Course, ours: readonly number[], notes: string[]): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const peer of [nginx, socat]) {
    if (peer.missing !== undefined) {
      notes.push(`${peer.name}: ${peer.missing}.`);
      continue;
    }
    const theirs: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const pace = await withForwarder(course, peer, (one) => course.run(one, FOR_PEERS, PEER_SECONDS));
      theirs.push(pace.delivered / pace.cpuSeconds / 1000);
    }
    const values = eachRound(ours, theirs, (one, other) => one / other);
    const target = peer === nginx ? { target: atLeast(8) } : {};
    figures.push({ what: `one source, 200 B: ${peer.name}`, unit: 'k/CPU-s', values: theirs, decimals: 1 });
    figures.push({ what: `udp-fanout, source: nat / ${peer.name}`, unit: '', values, decimals: 1, ...target });
  }
  return figures;
}

/** Nothing is lost at half of what it can. */
async function steady(course: Course): Promise<Figure[]> {
  const settings = { recv_buf_size: 16 << 20 };
  const most = await withForwarder(course, agent('preserve', settings), (one) => course.run(one, SMALL, PEER_SECONDS));
  const rate = Math.floor(most.delivered / PEER_SECONDS / 2);
  const { sent, delivered } = await withForwarder(course, agent('preserve', settings), (one) =>
    course.run(one, { ...SMALL, rate }, STEADY_SECONDS),
  );
  return [
    { what: 'saturation, 64 B', unit: 'k/s', values: [(2 * rate) / 1000], decimals: 0 },
    {
      what: `sent in ${STEADY_SECONDS} s at half of it`,
      unit: 'k/s',
      values: [sent / STEADY_SECONDS / 1000],
      decimals: 0,
    },
    { what: 'of these lost', unit: '', values: [sent - delivered], decimals: 0, target: atMost(0) },
  ];
}

async function delays(course: Course): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const [rate, seconds, most] of DELAYS) {
    for (const peer of [reference, agent('preserve')]) {
      const values: { p50: number; p99: number }[] = [];
      for (let round = 0; round < DELAY_ROUNDS; round++) values.push(await addedDelay(course, peer, rate, seconds));
      const what = `latency added at ${rate} a second: ${peer.name}`;
      const target = peer === reference ? {} : { target: atMost(most) };
      figures.push({ what: `${what}, p50`, unit: 'us', values: values.map(({ p50 }) => p50), decimals: 0 });
      figures.push({ what: `${what}, p99`, unit: 'us', values: values.map(({ p99 }) => p99), decimals: 0, ...target });
    }
  }
  return figures;
}

/** RSS with two workers after traffic, less that of an agent on the kernel path, which has no pool. */
async function memory(course: Course): Promise<Figure[]> {
  const values: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const without = await withForwarder(course, kernelPath, ({ pid }) => idleRss(pid));
    const with2 = await withForwarder(course, agent('preserve', { workers: 2 }), async (one) => {
      await course.run(one, { ...THOUSAND, rate: 50_000 }, 1);
      return idleRss(one.pid);
    });
    values.push(with2 - without);
  }
  return [{ what: 'RSS of a pool of 2 workers', unit: 'MiB', values, decimals: 1, target: atMost(40) }];
}

async function idleRss(pid: number): Promise<number> {
  await sleep(1000);
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024;
}

async function withForwarder<T>(course: Course, peer: Peer, work: (forwarder: Forwarder) => Promise<T>): Promise<T> {
  const forwarder = await peer.start(course);
  try {
    return await work(forwarder);
  } finally {
    await forwarder.stop();
  }
}
