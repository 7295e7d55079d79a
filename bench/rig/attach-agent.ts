/** The real agent on a node of the bench. */
import { type Agent, startAgent } from '../../lab/agent.ts';
import type { Host } from '../../lab/host.ts';

/** A listener on the node's NIC, addresses as a config writes them. */
export interface BenchListener {
  readonly bind: string;
  readonly downstreams: readonly string[];
}

export interface AttachOptions {
  /** Instead of the BPF object in dist/. */
  readonly object?: string | undefined;
  readonly metrics?: boolean;
}

/** Starts the agent and returns when it is attached; throws with its log if it is not. */
export async function attachAgent(
  node: Host,
  listeners: readonly BenchListener[],
  { object, metrics = false }: AttachOptions = {},
): Promise<Agent> {
  const config = {
    listeners: listeners.map(({ bind, downstreams }, index) => ({
      name: `listener-${index}`,
      bind,
      interface: node.nic,
      mode: 'tc_ebpf',
      downstream: downstreams.map((address, at) => ({ name: `downstream-${at}`, address })),
    })),
    metrics: { enabled: metrics },
  };
  const agent = startAgent(node, config, object ? { args: ['--ebpf-program', object] } : {});
  await agent.waitFor(/attached TC eBPF program/);
  return agent;
}
