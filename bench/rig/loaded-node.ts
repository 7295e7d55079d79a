/** A node whose agent has filled the maps and attached the program, for test runs of just that program. */
import { openHost } from '../../agent/netlink/host.ts';
import type { Host, Pod } from '../../lab/host.ts';
import { interfaceIndex } from '../../lab/libc.ts';
import { programById } from '../../lab/loaded-program.ts';
import { singleNode } from '../../lab/single-node.ts';
import { attachAgent } from './attach-agent.ts';

/** Of the wildcard listener, which takes both families. */
export const PORT = 5514;
export const NODE6 = 'fd00::1';
/** A datagram's destination, by family: the bind of a listener whose downstream is a listener that leads back. */
export const PAIR = { 4: { dst: '10.9.0.1', dport: 6001 }, 6: { dst: 'fd09::1', dport: 6001 } } as const;

/** Pairs of listeners, each the other's downstream: a datagram stays theirs whatever the run before has rewritten. */
const PAIRS = [
  ['10.9.0.1:6001', '10.9.0.2:6002'],
  ['[fd09::1]:6001', '[fd09::2]:6002'],
] as const;
const PAIR_IPS = ['10.9.0.1', '10.9.0.2', 'fd09::1', 'fd09::2'];

/** A program and where it runs. */
export interface Subject {
  readonly name: string;
  readonly node: Host;
  readonly fd: number;
}

export interface LoadedNode extends Subject, Disposable {
  readonly pod: Pod;
}

/** Builds it with the object in dist/ or another one. */
export async function loadedNode(name: string, object?: string): Promise<LoadedNode> {
  const topology = singleNode({ pods: 1 });
  const { node, pods } = topology;
  const pod = pods[0]!;
  node.namespace.sysctl({ 'net/ipv6/conf/all/forwarding': 1 });
  node.namespace.ip([
    `addr add ${NODE6}/64 dev ${node.nic} nodad`,
    `route add 10.9.0.0/24 dev ${pod.hostInterface}`,
    `route add fd09::/64 dev ${pod.hostInterface}`,
    ...PAIR_IPS.map((ip) => `neigh add ${ip} lladdr ${pod.mac} dev ${pod.hostInterface}`),
  ]);
  const binds: [bind: string, downstream: string][] = [[`[::]:${PORT}`, pod.address]];
  for (const [one, other] of PAIRS) binds.push([one, other], [other, one]);
  await attachAgent(
    node,
    binds.map(([bind, downstream]) => ({ bind, downstreams: [downstream] })),
    { object },
  );
  return { name, node, pod, fd: attachedProgram(node), [Symbol.dispose]: () => topology.close() };
}

/** A descriptor of the program that the agent has put on the node's NIC. */
function attachedProgram({ namespace, nic }: Host): number {
  return namespace.inside(() => {
    const host = openHost();
    try {
      const filters = host.filters(interfaceIndex(nic));
      const id = filters.find(({ bpfName }) => bpfName?.startsWith('udp_fanout:'))?.bpfId;
      if (id === undefined) throw new Error(`${nic}: no filter udp_fanout`);
      return programById(id);
    } finally {
      host.close();
    }
  });
}
