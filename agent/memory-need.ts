/** What a config takes of memory, by measured constants, and what to say where there is not so much. */
import { AGENT_BYTES, socketBytes, threadBytes } from './datapath/userspace/workers/pool-size.ts';
import type { Listener } from './model.ts';

/** resources.limits.memory of k8s/daemonset.yaml. */
const MANIFEST_BYTES = 256 << 20;
/** Measured: 256 listeners of the kernel path, 20 MiB to 35 MiB. */
const LISTENER_BYTES = 160 << 10;
/** Measured, with metrics and a scrape: 4 KiB for each of 20,000 to 5.6 KiB for each of 7000. */
const DOWNSTREAM_BYTES = 5 << 10;

export interface MemoryNeed {
  readonly bytes: number;
  /** Threads that there are for sure: as many as the listener has that wants most; one where that is left open. */
  readonly workers: number;
  /** Static ones: nobody knows how many endpoints a Service will have. */
  readonly downstreams: number;
}

export function memoryNeed(listeners: readonly Listener[]): MemoryNeed {
  const threaded = listeners.filter(({ mode }) => mode === 'userspace').map(({ settings }) => settings);
  const wishes = threaded.map(({ workers }) => Math.max(1, workers));
  const workers = Math.max(0, ...wishes);
  const downstreams = sum(listeners.map(({ endpoints }) => (endpoints.kind === 'static' ? endpoints.list.length : 0)));
  const bytes =
    AGENT_BYTES +
    listeners.length * LISTENER_BYTES +
    downstreams * DOWNSTREAM_BYTES +
    sum(threaded.map((settings, index) => wishes[index]! * socketBytes(settings))) +
    workers * threadBytes(threaded);
  return { bytes, workers, downstreams };
}

export interface MemoryRemark {
  readonly means: string;
  /** Absent where the limit is enough. */
  readonly mend?: string;
}

/** The limit is this container's; without one, that of the manifest. In bytes. */
export function memoryRemark({ bytes, workers, downstreams }: MemoryNeed, limit?: number): MemoryRemark {
  const most = limit ?? MANIFEST_BYTES;
  const whose = limit === undefined ? 'k8s/daemonset.yaml allows' : "this container's limit is";
  const what = `${workers} worker threads and ${downstreams} static downstreams`;
  const means = `takes up to ${mebibytes(bytes)} of memory with ${what}, and ${whose} ${mebibytes(most)}`;
  if (bytes <= most) return { means };
  return { means, mend: 'raise resources.limits.memory, or have fewer workers or downstreams' };
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}
