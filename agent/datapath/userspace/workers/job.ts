/** What a worker thread is started with; all of it can be cloned to the thread. */
import type { MessagePort } from 'node:worker_threads';
import type { Preserve } from '../forward/source-paths.ts';
import type { TableSnapshot } from '../snapshot.ts';

export interface WorkerJob {
  /** Its socket, which stays the agent's: it outlives the worker, and what waits in it is the next one's. */
  readonly fd: number;
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
