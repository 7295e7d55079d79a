/** What a worker thread is started with; all of it can be cloned to the thread. */
import type { MessagePort } from 'node:worker_threads';
import type { Preserve } from '../forward/source-paths.ts';
import type { TableSnapshot } from '../snapshot.ts';

export interface WorkerJob {
  /** Its own descriptor of the socket. The agent has another: what waits in the socket is the next worker's. */
  readonly fd: number;
  /** Memory of the Descriptors that are the worker's, this one among them. */
  readonly descriptors: SharedArrayBuffer;
  readonly index: number;
  /** Memory of its WorkerState. */
  readonly state: SharedArrayBuffer;
  readonly snapshot: TableSnapshot;
  /** Where later snapshots come from. */
  readonly snapshots: MessagePort;
  readonly batchSize: number;
  readonly maxPacketSize: number;
  readonly preserve: Preserve | undefined;
  /** Whether the kernel knows UDP_SEGMENT. */
  readonly gathers: boolean;
  /** Whether the socket has UDP_GRO. */
  readonly coalesces: boolean;
  /** The CPU to stay on. */
  readonly cpu: number | undefined;
}
