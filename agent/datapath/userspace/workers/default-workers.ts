/** How many workers a listener has whose config leaves it open: one for each CPU, if there is so much CPU and memory. */
import type { CgroupLimits } from '../../../kernel/cgroup.ts';
import type { Settings } from '../../../model.ts';
import { LARGEST_MESSAGE } from '../messages/receive-batch.ts';

/** The agent without workers, with metrics and some thousand endpoints; as measured, and some room. */
export const AGENT_BYTES = 96 << 20;
/** A worker's heap, code and stack as measured, but for the messages of a batch. */
const WORKER_BYTES = 13 << 20;

/** What a worker takes at most, in bytes. */
export function workerBytes({ batchSize }: Pick<Settings, 'batchSize'>): number {
  return WORKER_BYTES + batchSize * LARGEST_MESSAGE;
}

export interface Means {
  /** CPUs that this process may run on. */
  readonly cpus: number;
  readonly limits: CgroupLimits;
  /** Bytes that one worker takes, and those of other listeners altogether. */
  readonly each: number;
  readonly taken: number;
  /** Listeners that are still to be given workers by what there is, this one included. */
  readonly sharers: number;
}

/** At least 1. */
export function defaultWorkers({ cpus, limits, each, taken, sharers }: Means): number {
  const room = Math.floor((limits.memory - AGENT_BYTES - taken) / each / sharers);
  return Math.max(1, Math.min(cpus, Math.ceil(limits.cpus), room));
}
