/** Where endpoints come from, whatever the kind. */
import type { Endpoint, Listener } from '../model.ts';

export interface EndpointSource {
  /** The listener's endpoints that may receive now; undefined as long as nobody knows. */
  endpoints(listener: Listener): readonly Endpoint[] | undefined;
  close(): void;
}
