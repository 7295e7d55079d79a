/**
 * The words of udp-fanout (design: listener, endpoint, downstream, slot table, next hop, datapath). Plain immutable
 * data; this file imports nothing but addresses, so that every other part can speak in these words.
 */
import type { Family, SocketAddress } from './address.ts';

export const MODES = ['tc_ebpf', 'userspace', 'auto'] as const;
export type Mode = (typeof MODES)[number];

/** Whose address the datagrams bear that the userspace datapath sends: the client's, this host's, or what is allowed. */
export const SOURCE_MODES = ['auto', 'preserve', 'nat'] as const;
export type SourceMode = (typeof SOURCE_MODES)[number];

/** What becomes of a datagram that is too large for the way and must not be fragmented: it is all the same, or its sender is told. */
export const PMTU = ['fragment', 'report'] as const;
export type Pmtu = (typeof PMTU)[number];

/** What a listener of a Service does with endpoints that are not ready while it has no other ones. */
export const UNREADY = ['last_resort', 'never'] as const;
export type Unready = (typeof UNREADY)[number];

/** Where a listener's endpoints come from: a list in the config, or the EndpointSlices of a Service. */
export type EndpointSpec =
  | { readonly kind: 'static'; readonly list: readonly Endpoint[] }
  | {
      readonly kind: 'kubernetes';
      readonly namespace: string;
      readonly service: string;
      /** Number, name, or absent: then the slice's only UDP port. */
      readonly port?: number | string;
      /** Absent: never. */
      readonly unready?: Unready;
    };

/** A UDP address:port on the node and how its datagrams are spread. `id` is its place in the config, from 0. */
export interface Listener {
  readonly id: number;
  readonly name: string;
  readonly bind: SocketAddress;
  /** Interfaces whose ingress we attach to; empty only for `mode: userspace`. */
  readonly interfaces: readonly string[];
  readonly mode: Mode;
  readonly endpoints: EndpointSpec;
  readonly source: SourceMode;
  readonly pmtu: Pmtu;
  readonly settings: Settings;
}

export interface Settings {
  /** Largest datagram the userspace datapath takes, bytes of UDP payload. */
  readonly maxPacketSize: number;
  /** Datagrams a recvmmsg call asks for. */
  readonly batchSize: number;
  /** Sockets of the listener, each served by another worker thread; 0: one for each CPU. */
  readonly workers: number;
  readonly pinCpus: boolean;
  /** SO_RCVBUF in bytes; 0: DEFAULT_RECEIVE_BUFFER. */
  readonly recvBufSize: number;
  /** Sockets bound to clients' addresses that a worker holds for it at most, where the source is preserved. */
  readonly maxSources: number;
}

/** Bytes of receive buffer: some thousand datagrams, which is a sender's whole burst while its worker gets to run. */
export const DEFAULT_RECEIVE_BUFFER = 4 << 20;

/** What an EndpointSlice or the static list says, before policy and health. */
export interface Endpoint {
  readonly address: SocketAddress;
  /** Share of the datagrams relative to the listener's other endpoints, 1 to 256. */
  readonly weight: number;
  readonly name?: string;
  readonly nodeName?: string;
  readonly zone?: string;
  /** It is not ready: in use only as the last resort, and only if it answers health probes. */
  readonly unready?: true;
}

/** A listener's endpoints. No other set has its version: what has the same is the same. */
export interface EndpointSet {
  readonly version: number;
  readonly list: readonly Endpoint[];
}

/** An endpoint chosen to receive datagrams now. */
export interface Downstream {
  readonly address: SocketAddress;
  readonly weight: number;
  /** The address, of the same family, of the host that it lives on; absent where nobody knows. */
  readonly node?: string;
}

/** The sequence of downstreams that a datapath walks for one listener and family; immutable, swapped whole. */
export interface SlotTable {
  /** No other table has it: what has the same version is the same. */
  readonly version: number;
  readonly family: Family;
  readonly slots: readonly Downstream[];
}

/** Hard limits; beyond one there is a clear error, never truncation. The first two mirror bpf/udp_fanout.h. */
export const LIMITS = {
  listeners: 256,
  slotsPerTable: 65536,
  downstreamsPerListener: 4096,
  weight: 256,
} as const;

/** The families that a bind takes: `[::]` takes IPv4 as well, as a dual-stack socket does (ipv6(7), IPV6_V6ONLY off). */
export function familiesOf(listener: Pick<Listener, 'bind'>): readonly Family[] {
  if (listener.bind.family === 4) return [4];
  return listener.bind.ip === '::' ? [4, 6] : [6];
}
