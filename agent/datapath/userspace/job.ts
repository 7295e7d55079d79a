/** What a worker thread is started with; all of it can be cloned to the thread. */
import type { MessagePort } from 'node:worker_threads';
import type { TableImage } from './table.ts';
import type { Preserve } from './ways.ts';

export interface WorkerJob {
  /** Its socket, which stays the agent's: it outlives the worker, and what waits in it is the next one's. */
  readonly fd: number;
  readonly index: number;
  /** Memory of its Tally. */
  readonly tally: SharedArrayBuffer;
  readonly image: TableImage;
  /** Where later images come from. */
  readonly images: MessagePort;
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
