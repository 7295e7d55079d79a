/** Says in the log that descriptors are short, and what follows from it. */
import { setTicker, type Ticker } from '../clock.ts';
import { isShortOfDescriptors, KEPT_BACK, readDescriptorLimit } from '../kernel/descriptors.ts';
import type { Log } from '../log.ts';

const INTERVAL_MS = 10_000;

/** Looks every 10 s, and says so once. */
export function watchDescriptors({ log, ticker = setTicker }: { log: Log; ticker?: Ticker }): { close(): void } {
  const close = ticker(INTERVAL_MS, () => {
    if (!isShortOfDescriptors()) return;
    close();
    const limit = { limit: readDescriptorLimit(), kept_back: KEPT_BACK };
    log.warn(`${SHORT}: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=), or set fewer workers or max_sources`, limit);
  });
  return { close };
}

const SHORT =
  'descriptors are short: in userspace no more clients and downstreams get a socket of their own, the others share';
