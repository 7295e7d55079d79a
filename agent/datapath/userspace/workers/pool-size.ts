/** How many threads the pool has, how many sockets a listener whose config leaves it open, and what both take of memory. */
import type { CgroupLimits } from '../../../kernel/cgroup.ts';
import type { Settings } from '../../../model.ts';
import { roomFor } from '../forward/batch-buffers.ts';
import { LARGEST_MESSAGE } from '../messages/receive-batch.ts';

/** The agent without workers, with metrics and some thousand endpoints; as measured, and some room. */
export const AGENT_BYTES = 96 << 20;
/** A worker's heap, code and stack as measured, but for the messages of its batches. */
const THREAD_BYTES = 14 << 20;
/** A listener's socket, as measured: its forwarder, table, counters and descriptors; and what it remembers of each client. */
const SOCKET_BYTES = 64 << 10;
const CLIENT_BYTES = 64;

/** What a thread takes at most that serves such listeners, in bytes. Those whose batches are of like size share the room for them. */
export function threadBytes(listeners: readonly Pick<Settings, 'batchSize'>[]): number {
  const rooms = new Set(listeners.map(({ batchSize }) => roomFor(batchSize)));
  return THREAD_BYTES + LARGEST_MESSAGE * [...rooms].reduce((sum, messages) => sum + messages, 0);
}

/** What a socket of such a listener takes at most, in bytes. */
export function socketBytes({ maxSources }: Pick<Settings, 'maxSources'>): number {
  return SOCKET_BYTES + maxSources * CLIENT_BYTES;
}

type Sizes = Pick<Settings, 'batchSize' | 'maxSources'>;

export interface Means {
  /** CPUs that this process may run on. */
  readonly cpus: number;
  readonly limits: CgroupLimits;
}

/**
 * Threads that there are CPUs and memory for, at least 1: the most that the pool has unless a listener asks for more, and
 * the sockets of a listener that leaves it open.
 */
export function affordableThreads(listeners: readonly Sizes[], { cpus, limits }: Means): number {
  const each = listeners.reduce((sum, settings) => sum + socketBytes(settings), threadBytes(listeners));
  return Math.max(1, Math.min(cpus, Math.ceil(limits.cpus), Math.floor((limits.memory - AGENT_BYTES) / each)));
}
