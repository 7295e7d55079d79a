/** What the program costs: traffic that is not a listener's, and a datagram that is. */
import { tcp4, tcp6, udp4, udp6 } from '../lab/frame.ts';
import { interfaceIndex } from '../lab/libc.ts';
import { ACTION, testRun } from '../lab/test-run.ts';
import { type Bench, type BenchOptions, eachRound, type Figure, type Report } from './report.ts';
import { measured } from './rig/cpu.ts';
import { type LoadedNode, loadedNode, NODE6, PAIR, PORT, type Subject } from './rig/loaded-node.ts';
import { loadProgram } from './rig/program.ts';

const ROUNDS = 15;
/** Each run takes one hop of a datagram's 255. */
const PAIR_RUNS = { repeat: 200, calls: 200, action: ACTION.REDIRECT };
const FOREIGN_RUNS = { repeat: 200_000, calls: 1, action: ACTION.UNSPEC };
const TTL = 255;

interface Case {
  readonly what: string;
  readonly frame: Buffer;
  readonly runs: { readonly repeat: number; readonly calls: number; readonly action: number };
  readonly mostNs?: number;
}

export const foreign: Bench = {
  name: 'foreign',
  question: 'what does the program add to traffic that is not ours, and what does a datagram of ours cost?',
  run,
};

async function run({ candidate }: BenchOptions): Promise<Report> {
  using stack = new DisposableStack();
  const ours = stack.use(await loadedNode('udp-fanout'));
  const subjects: Subject[] = [ours];
  if (candidate) subjects.push(stack.use(await loadedNode('candidate', candidate)));
  const { node } = ours;
  const empty = { name: 'empty program', node, fd: loadProgram('empty', node.namespace.directory).fd };

  const figures: Figure[] = [];
  for (const one of cases(ours)) {
    const unspec = { ...one, runs: { ...one.runs, action: ACTION.UNSPEC } };
    const base: number[] = [];
    const times = subjects.map((): number[] => []);
    for (let round = 0; round < ROUNDS; round++) {
      base.push(nanoseconds(empty, unspec));
      for (const [at, subject] of subjects.entries()) times[at]!.push(nanoseconds(subject, one));
    }
    for (const [at, { name }] of subjects.entries()) {
      const added = eachRound(times[at]!, base, (time, empty) => time - empty);
      const target = one.mostNs ? { target: { is: 'at most', value: one.mostNs } as const } : {};
      figures.push({ what: `${one.what}: ${name}`, unit: 'ns', values: added, decimals: 1, ...target });
    }
  }
  return { figures, notes: NOTES };
}

const NOTES = [
  'Each figure is the time of a test run less that of an empty program on the same frame in the same round.',
  'Our datagrams match a specific bind; a wildcard bind costs the look-up of the destination address as well.',
  'A redirect is decided in a test run, not carried out; what it leads to is measured by kernel-path.',
];

function cases({ node, pod }: LoadedNode): Case[] {
  const to4 = { src: '10.0.0.9', sport: 40000, ttl: TTL, payload: Buffer.from('22 bytes, so 64 in all') };
  const to6 = { src: 'fd00::9', sport: 40000, ttl: TTL, payload: Buffer.from('64') };
  const not = { runs: FOREIGN_RUNS, mostNs: 25 };
  // Of a listener's port, though not for it: the destination has to be looked up to know.
  const transit = { runs: FOREIGN_RUNS };
  return [
    { ...not, what: 'foreign: UDP to another port', frame: udp4({ ...to4, dst: node.ip, dport: 53 }) },
    { ...not, what: 'foreign: TCP to the same port', frame: tcp4({ ...to4, dst: node.ip, dport: PORT }) },
    { ...transit, what: 'foreign: same port of a pod (transit)', frame: udp4({ ...to4, dst: pod.ip, dport: PORT }) },
    { ...not, what: 'foreign: IPv6 UDP to another port', frame: udp6({ ...to6, dst: NODE6, dport: 53 }) },
    { ...not, what: 'foreign: IPv6 TCP to the same port', frame: tcp6({ ...to6, dst: NODE6, dport: PORT }) },
    { ...transit, what: 'foreign: IPv6 same port of a pod', frame: udp6({ ...to6, dst: 'fd00:1::10', dport: PORT }) },
    { what: 'ours: IPv4 datagram', frame: udp4({ ...to4, ...PAIR[4] }), runs: PAIR_RUNS },
    { what: 'ours: IPv6 datagram', frame: udp6({ ...to6, ...PAIR[6] }), runs: PAIR_RUNS },
  ];
}

/** Mean time of a run on this frame, which must end as the case says. */
function nanoseconds({ node, fd, name }: Subject, { what, frame, runs }: Case): number {
  return node.namespace.inside(() => {
    const ifindex = interfaceIndex(node.nic);
    return measured(() => {
      let sum = 0;
      for (let call = 0; call < runs.calls; call++) {
        const { action, ns } = testRun(fd, frame, { ifindex }, runs.repeat);
        if (action !== runs.action) throw new Error(`${what}: ${name} answers ${action}, want ${runs.action}`);
        sum += ns;
      }
      return sum / runs.calls;
    });
  });
}
