/** What a worker thread is started with, and what it is told later; all of it can be cloned to the thread. */
import type { MessagePort } from 'node:worker_threads';
import type { Preserve } from '../forward/source-paths.ts';
import type { TableSnapshot } from '../snapshot.ts';

export interface ThreadJob {
  readonly index: number;
  /** Memory of its ThreadState. */
  readonly state: SharedArrayBuffer;
  /** Memory of the Descriptors that are the thread's own, whatever it serves. */
  readonly descriptors: SharedArrayBuffer;
  /** Where its messages come from. */
  readonly messages: MessagePort;
  /** The CPU to stay on while all that it serves want that, and those that it may be on otherwise. */
  readonly cpu: number;
  readonly cpus: readonly number[];
}

/** One socket of a listener, and how its datagrams are forwarded. */
export interface Terms {
  readonly fd: number;
  /** Its place among the listener's sockets. */
  readonly index: number;
  readonly batchSize: number;
  readonly maxPacketSize: number;
  readonly preserve: Preserve | undefined;
  /** Whether the kernel knows UDP_SEGMENT. */
  readonly gathers: boolean;
  /** Whether the socket has UDP_GRO. */
  readonly coalesces: boolean;
  /** Whether its thread is to stay on one CPU. */
  readonly pin: boolean;
}

/** A socket that a thread is to serve; `fd` is the thread's own descriptor, since what waits in the socket is the next thread's. */
export interface ShareJob extends Terms {
  readonly id: number;
  /** Memory of the Descriptors that go with it, `fd` among them. */
  readonly descriptors: SharedArrayBuffer;
  /** Memory of its ForwarderState. */
  readonly state: SharedArrayBuffer;
  readonly snapshot: TableSnapshot;
}

export type ThreadMessage = { readonly serve: ShareJob } | { readonly id: number; readonly snapshot: TableSnapshot };
