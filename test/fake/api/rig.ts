/** A stream, or the listeners of a source, on an API without a network and a clock that stands still. */
import { setImmediate as turn } from 'node:timers/promises';
import { formatAddress } from '../../../agent/address.ts';
import { resolveEndpoints } from '../../../agent/discovery/endpoints.ts';
import { SliceReflector } from '../../../agent/discovery/slice-reflector.ts';
import { FakeTimer } from '../timer.ts';
import { aLog } from '../words.ts';
import { MemoryApi } from './memory.ts';

export interface StreamRig {
  readonly timer: FakeTimer;
  readonly api: MemoryApi;
  readonly log: ReturnType<typeof aLog>;
  readonly stream: SliceReflector;
  /** Calls of `onChange` so far. */
  readonly changes: () => number;
  /** Its endpoints on UDP port 9000; undefined as long as it knows none. */
  readonly endpoints: () => readonly string[] | undefined;
  /** Lets time pass in steps, between which all that was begun goes on. */
  readonly pass: (milliseconds: number, step?: number) => Promise<void>;
}

export interface StreamRigOptions {
  /** What every draw gives; always 0.5. */
  readonly random?: () => number;
  /** Does something to the API before it is asked for the first time. */
  readonly prepare?: (api: MemoryApi) => void;
  /** Who gets a bookmark every minute: whoever is behind, as from a real server, everybody (default), or nobody. */
  readonly bookmarks?: 'newer' | 'always' | 'never';
}

/** A stream of the Service `receivers` in `logging` that runs. */
export function streamRig({ random = () => 0.5, prepare, bookmarks = 'always' }: StreamRigOptions = {}): StreamRig {
  const timer = new FakeTimer();
  const now = () => timer.now;
  const api = new MemoryApi(now);
  const log = aLog();
  let changes = 0;
  const stream = new SliceReflector({
    namespace: 'logging',
    service: 'receivers',
    api,
    log,
    timer: timer.set,
    now,
    random,
    onChange: () => changes++,
  });
  const bookmark = () => {
    if (bookmarks === 'always') api.bookmark();
    else api.bookmarkIfNewer();
    timer.set(60_000, bookmark);
  };
  if (bookmarks !== 'never') timer.set(60_000, bookmark);
  prepare?.(api);
  void stream.run();
  return {
    timer,
    api,
    log,
    stream,
    changes: () => changes,
    endpoints: () => {
      const { slices } = stream;
      return slices && resolveEndpoints(slices, 9000).endpoints.map(({ address }) => formatAddress(address));
    },
    pass: async (milliseconds, step = 100) => {
      const end = timer.now + milliseconds;
      await turn();
      while (timer.now < end) {
        timer.advance(Math.min(step, end - timer.now));
        await turn();
      }
    },
  };
}
