/** Where endpoints come from, whatever the kind. */
import type { Endpoint, Listener } from '../model.ts';
import type { StreamStatus } from './slice-reflector.ts';

export interface EndpointSource {
  /**
   * The listener's endpoints that may receive now, and, where it wants them as the last resort, those that are not
   * ready; undefined as long as nobody knows.
   */
  endpoints(listener: Listener): readonly Endpoint[] | undefined;
  close(): void;
}

/** A source whose answers change. */
export interface LiveSource extends EndpointSource {
  /** Begins to look; `onChange` may be called at any time from then on. */
  start(onChange: () => void): void;
  status(): readonly StreamStatus[];
}
