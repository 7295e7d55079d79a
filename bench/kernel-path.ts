/** How many datagrams a second one core forwards into pods: ours, nftables in two ways, and the rig's own limit. */
import { type Bench, type BenchOptions, eachRound, type Figure, type Report } from './report.ts';
import { attachAgent } from './rig/attach-agent.ts';
import { Lane, LISTENER_PORT, type Slice } from './rig/lane.ts';

const ROUNDS = 9;
const FRAMES = 500_000;
const LIMIT_SECONDS = 2;
/** Divisible by the number of pods, so that even shares are equal shares. */
const PROOF_FRAMES = 300;

interface Peer {
  readonly lane: Lane;
  /** Each datagram to the next pod; else all to the first. */
  readonly spreads: boolean;
}

export const kernelPath: Bench = {
  name: 'kernel-path',
  question: 'how many 64-byte datagrams a second does one core forward into pods?',
  run,
};

async function run({ candidate }: BenchOptions): Promise<Report> {
  using lanes = new DisposableStack();
  const lane = (...args: ConstructorParameters<typeof Lane>) => lanes.use(new Lane(...args));
  const peers: Peer[] = [
    { lane: await withAgent(lane('udp-fanout')), spreads: true },
    { lane: withNft(lane('nft stateless round robin'), roundRobin), spreads: true },
    { lane: withNft(lane('nft DNAT with conntrack, one flow'), dnat), spreads: false },
    { lane: lane('tc program that drops', 'node'), spreads: false },
  ];
  if (candidate) peers.push({ lane: await withAgent(lane('candidate'), candidate), spreads: true });

  for (const peer of peers) await prove(peer);
  const slices = new Map<Peer, Slice[]>(peers.map((peer) => [peer, []]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const peer of peers) slices.get(peer)!.push(await peer.lane.run(FRAMES, LIMIT_SECONDS));
  }
  return { figures: figuresOf(slices), notes: NOTES };
}

const NOTES = [
  'Generator, veth, forwarding and the drop in the pod share one core; delivered is what the pods counted.',
  'Each peer has a lane of its own; two lanes with one and the same program differ by a few per cent (seen: 1 to 6).',
  'Before the race each peer was held to true checksums and, where it spreads, to exactly equal shares.',
];

/** Holds a peer to doing the job at all. */
async function prove({ lane, spreads }: Peer): Promise<void> {
  const { arrived, wrong } = await lane.prove(PROOF_FRAMES);
  const wanted = arrived.map((_, at) => (spreads ? PROOF_FRAMES / arrived.length : at === 0 ? PROOF_FRAMES : 0));
  if (wrong === 0 && arrived.every((count, at) => count === wanted[at])) return;
  throw new Error(
    `${lane.name}: delivered ${arrived.join(', ')} with ${wrong} wrong, want ${wanted.join(', ')} with 0`,
  );
}

function figuresOf(slices: ReadonlyMap<Peer, readonly Slice[]>): Figure[] {
  const [ours, stateless, nat, , candidate] = [...slices.values()].map((list) => list.map(mppsOf));
  const ratio = (what: string, left: readonly number[], right: readonly number[]) => ({
    what,
    unit: '',
    values: eachRound(left, right, (one, other) => one / other),
  });
  return [
    ...[...slices].map(([{ lane }, list]) => ({ what: lane.name, unit: 'Mpps', values: list.map(mppsOf) })),
    ...[...slices].map(([{ lane }, list]) => ({
      what: `delivered of sent: ${lane.name}`,
      unit: '%',
      values: list.map((slice) => (100 * deliveredBy(slice)) / slice.sent),
    })),
    ...[...slices]
      .filter(([{ spreads }]) => spreads)
      .map(([{ lane }, list]) => ({
        what: `largest and smallest share apart: ${lane.name}`,
        unit: '%',
        values: list.map(unevenness),
        target: { is: 'at most', value: 0.1 } as const,
        decimals: 4,
      })),
    { ...ratio('udp-fanout / nft stateless', ours!, stateless!), target: { is: 'at least', value: 1.2 } },
    { ...ratio('udp-fanout / nft DNAT', ours!, nat!), target: { is: 'at least', value: 1 } },
    ...(candidate ? [ratio('candidate / udp-fanout', candidate, ours!)] : []),
  ];
}

const deliveredBy = ({ arrived }: Slice) => arrived.reduce((sum, each) => sum + each, 0);
const mppsOf = (slice: Slice) => deliveredBy(slice) / slice.seconds / 1e6;
/** Percent of the mean share. */
const unevenness = (slice: Slice) =>
  (100 * (Math.max(...slice.arrived) - Math.min(...slice.arrived)) * slice.arrived.length) / deliveredBy(slice);

async function withAgent(lane: Lane, object?: string): Promise<Lane> {
  const { node, pods } = lane.topology;
  const downstreams = pods.map(({ address }) => address);
  await attachAgent(node, [{ bind: `0.0.0.0:${LISTENER_PORT}`, downstreams }], { object });
  return lane;
}

function withNft(lane: Lane, ruleset: (lane: Lane) => string): Lane {
  lane.topology.node.namespace.run('nft', [ruleset(lane)]);
  return lane;
}

/** On the NIC's ingress, where it costs less than in prerouting and needs no notrack: connections are tracked later. */
function roundRobin({ topology: { node, pods } }: Lane): string {
  const map = pods.map(({ ip }, index) => `${index} : ${ip}`).join(', ');
  return `table netdev bench {
    chain ingress {
      type filter hook ingress device "${node.nic}" priority 0
      ip daddr ${node.ip} udp dport ${LISTENER_PORT} \\
        ip daddr set numgen inc mod ${pods.length} map { ${map} } udp dport set ${pods[0]!.port}
    }
  }`;
}

/** As kube-proxy does it: the first datagram decides for the flow, and conntrack remembers. */
function dnat({ topology: { node, pods } }: Lane): string {
  return `table ip bench {
    chain prerouting {
      type nat hook prerouting priority dstnat
      ip daddr ${node.ip} udp dport ${LISTENER_PORT} dnat to ${pods[0]!.address}
    }
  }`;
}
