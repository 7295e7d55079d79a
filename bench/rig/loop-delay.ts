/**
 * Loaded into the agent before its own code (node --import): measures how late its event loop is, and answers SIGUSR2
 * with a line of JSON on standard output. So the agent itself needs nothing for it.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';

export interface LoopDelay {
  /** Milliseconds; the sampler's own millisecond is in them. */
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

const RESOLUTION_MS = 1;
const NS_PER_MS = 1e6;

const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
histogram.enable();
process.on('SIGUSR2', () => {
  const ms = (ns: number) => ns / NS_PER_MS;
  const delay: LoopDelay = {
    p50: ms(histogram.percentile(50)),
    p99: ms(histogram.percentile(99)),
    max: ms(histogram.max),
  };
  histogram.reset();
  process.stdout.write(`loop delay ${JSON.stringify(delay)}\n`);
});
