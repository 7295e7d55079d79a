/** The two datapaths as a test table: what is true of both is written once. */
import type { Host } from '../../lab/host.ts';
import type { listener } from './configs.ts';

export interface Mode {
  readonly name: 'tc_ebpf' | 'userspace';
  /** The agent's log line after which datagrams are forwarded. */
  readonly ready: RegExp;
  /** By how much a datagram's TTL goes down here: a router's one, or none where a new datagram is sent. */
  readonly hop: 0 | 1;
  /** Keys that every listener gets. */
  readonly keys: object;
  /** Makes the node take datagrams for an address that is on no interface. */
  readonly takeVip: (node: Host, vip: string) => void;
}

export const MODES: readonly Mode[] = [
  {
    name: 'tc_ebpf',
    ready: /attached TC eBPF program to ingress/,
    hop: 1,
    keys: {},
    takeVip: () => {},
  },
  {
    name: 'userspace',
    ready: /updated userspace downstream set/,
    hop: 0,
    // Two workers, and room for what a burst brings while the machine does something else.
    keys: { settings: { workers: 2, recv_buf_size: 64 << 20 } },
    // A socket gets what the stack delivers here, so the address has to be the node's own.
    takeVip: (node, vip) => node.namespace.ip([`addr add ${vip}/${vip.includes(':') ? 128 : 32} dev lo`]),
  },
];

/** A listener of `configs.ts` in one of the modes. */
export function inMode(mode: Mode, of: ReturnType<typeof listener>) {
  return { ...of, mode: mode.name, ...mode.keys };
}
