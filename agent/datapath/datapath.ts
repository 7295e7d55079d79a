/** What forwards: the interface that the kernel path and the worker pool both stand behind. */
import type { IpAddress } from '../address.ts';
import type { Listener, SlotTable } from '../model.ts';

/** All that a datapath has to know of the world, as plain data; `apply` makes it so. */
export interface Blueprint {
  /** The node's own addresses, which wildcard binds match. */
  readonly addresses: readonly IpAddress[];
  readonly listeners: readonly ListenerBlueprint[];
}

export interface ListenerBlueprint {
  readonly listener: Listener;
  /** The listener's interfaces that exist now. */
  readonly interfaces: readonly Interface[];
  /** Why it cannot have the others. */
  readonly absent: readonly Problem[];
  /** One for each family that the bind takes; absent families leave what is there as it is. */
  readonly tables: readonly SlotTable[];
}

export interface Interface {
  readonly index: number;
  readonly name: string;
}

/** Something that the blueprint asks for and that could not be done, in the operator's words. */
export interface Problem {
  /** As /readyz names it: `attachment(eth0)`, `endpoints(syslog)`. */
  readonly subject: string;
  readonly message: string;
}

/** One listener's counters since the datapath first had it; datagrams, and bytes of UDP payload. */
export interface ListenerCounters {
  readonly listener: Listener;
  readonly mode: DatapathMode;
  readonly received: number;
  readonly forwarded: number;
  readonly bytesReceived: number;
  readonly bytesForwarded: number;
  /** Those that the program handed to the safety net, by reason, zeroes included; they are forwarded or dropped as well. */
  readonly toSafetyNet: ReadonlyMap<string, number>;
  /** By reason, zeroes included. received = forwarded + dropped + what the safety net still has in hand. */
  readonly dropped: ReadonlyMap<string, number>;
  /** On the listener's port and not received, but left to whom they are for, by reason. */
  readonly passed: ReadonlyMap<string, number>;
  /** Of those forwarded, by reason, zeroes included: fragmented ones whose first part left and whose rest was lost here. */
  readonly torn: ReadonlyMap<string, number>;
  /** Forwarded datagrams by downstream that is in use, as formatAddress writes it. */
  readonly downstreams: ReadonlyMap<string, number>;
  /** The same of those that are not any more; `other` is all that are too long gone to be told apart. */
  readonly gone: ReadonlyMap<string, number>;
  /** How often a thread that forwards for it died; absent where there are none. */
  readonly workerDeaths?: number;
  /** By index of the interface, datagrams that came to the socket of a listener of the kernel path, past the program. */
  readonly arrivals?: ReadonlyMap<number, number> | undefined;
}

export type DatapathMode = 'tc_ebpf' | 'userspace';

export interface Datapath {
  readonly mode: DatapathMode;
  /**
   * Makes the datapath what the blueprint says and tells what could not be done; calling it again retries. When it
   * returns, no datagram goes to a downstream that the blueprint does not name.
   */
  apply(blueprint: Blueprint): readonly Problem[];
  counters(): readonly ListenerCounters[];
  /** A sign of life, once a second, to what would go on alone. */
  beat(): void;
  /** Takes what is ours off the host. */
  remove(): void;
  /** Lets go of it and leaves it running where it can: the kernel path does, sockets and threads end either way. */
  release(): void;
}
