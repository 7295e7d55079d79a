/** Where endpoints come from, whatever the kind. */
import type { Family } from '../address.ts';
import type { EndpointSet, Listener } from '../model.ts';
import type { StreamStatus } from './slice-reflector.ts';

export interface EndpointSource {
  /** From now on the endpoints of these listeners are wanted, known by their names, and of no other ones. */
  want(listeners: readonly Listener[]): void;
  /**
   * The listener's endpoints that may receive now, and, where it wants them as the last resort, those that are not
   * ready; undefined as long as nobody knows.
   */
  endpoints(listener: Listener): EndpointSet | undefined;
  /** The address of one family of a node that endpoints name; undefined where nobody knows. */
  nodeAddress(name: string, family: Family): string | undefined;
  /** Another number where `nodeAddress` may answer differently. */
  readonly nodesVersion: number;
  /** Begins to look; `onChange` may be called at any time from then on. */
  start(onChange: () => void): void;
  status(): readonly StreamStatus[];
  close(): void;
}

let version = 0;

/** The endpoints as a set of its own. */
export function endpointSet(list: EndpointSet['list']): EndpointSet {
  return { version: ++version, list };
}
