/** What forwards a listener's datagrams, whether threads of the pool or the agent's own. */
import type { TableSnapshot } from './snapshot.ts';
import type { Totals } from './workers/state.ts';

export interface ForwarderGroup {
  /** Waits until all forwarders receive; false if some do not within `limit` ms. */
  ready(limit: number): boolean;
  /** Goes by another snapshot; when it returns, nothing goes by the old one. False if that could not be had in time. */
  publish(snapshot: TableSnapshot): boolean;
  totals(): readonly Totals[];
  /** By interface, datagrams that came; of a safety net. */
  readonly arrivals?: ReadonlyMap<number, number> | undefined;
  /** How often a forwarder died. */
  readonly deaths: number;
  /** Tells all forwarders to end. */
  stop(): void;
  /** Ends all forwarders. They touch no socket afterwards. */
  close(): void;
}
