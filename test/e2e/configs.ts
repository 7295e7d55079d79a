/** Configs for the lab's topologies, as the guide writes them. */
import type { Pod } from '../../lab/host.ts';

export interface ListenerOptions {
  readonly name?: string;
  readonly bind: string;
  readonly interface: string;
  readonly downstream: readonly (Pod | string)[];
}

/** One listener on the kernel path with a static list. */
export function listener({ name = 'test', bind, interface: nic, downstream }: ListenerOptions) {
  const addresses = downstream.map((one) => ({ address: typeof one === 'string' ? one : one.address }));
  return { name, bind, interface: nic, mode: 'tc_ebpf', downstream: addresses };
}

/** A whole config with these listeners, metrics on. */
export function config(...listeners: readonly ReturnType<typeof listener>[]) {
  return { listeners, metrics: { enabled: true, bind: '127.0.0.1:9090' } };
}
