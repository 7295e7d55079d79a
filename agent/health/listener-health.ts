/** One listener's endpoints, what is known of them by now, and who of them may receive. */
import type { Family, SocketAddress } from '../address.ts';
import type { Endpoint, Listener } from '../model.ts';
import type { Monitor } from './monitor.ts';
import { Counts, chosenOf } from './selection.ts';
import { type Condition, UNKNOWN } from './state.ts';

/** What is probed, and what the kernel knows of the way to it. */
export interface Target {
  readonly key: string;
  readonly address: SocketAddress;
  /** Undefined where nothing is probed. */
  readonly monitor: Monitor | undefined;
  /** Why this host cannot reach it; undefined where nothing speaks against it. */
  lost: string | undefined;
  /** The endpoints that it speaks for, of all listeners. */
  readonly users: Set<Watched>;
}

/** An endpoint of a listener, and what is known of it. */
export interface Watched {
  readonly owner: ListenerHealth;
  readonly endpoint: Endpoint;
  readonly target: Target;
}

/** Who may receive. What has the same version is the same list. */
export interface Downstreams {
  readonly version: number;
  readonly downstreams: readonly Endpoint[];
}

export interface ListenerHealthOptions {
  readonly listener: Listener;
  readonly from: string;
  readonly endpoints: readonly Endpoint[];
  readonly acquire: (endpoint: Endpoint) => Target;
  readonly failOpen: boolean;
  /** The same listener with the endpoints that it had before. */
  readonly before: ListenerHealth | undefined;
}

let version = 0;

export class ListenerHealth {
  readonly listener: Listener;
  /** What it was made of: the version of the endpoints, and the families that are taken. */
  readonly from: string;
  readonly watched: readonly Watched[];
  readonly counts: Counts;
  /** The families of which it was said last that unready endpoints are in use. */
  readonly saidLastResort: Set<Family>;
  readonly #endpoints: readonly Endpoint[];
  #selected: Downstreams | undefined;
  /** Other endpoints may receive than those that are selected. */
  #stale = true;

  /** Its endpoints are among the targets' users from now on. */
  constructor({ listener, from, endpoints, acquire, failOpen, before }: ListenerHealthOptions) {
    this.listener = listener;
    this.from = from;
    this.counts = new Counts(failOpen);
    this.saidLastResort = before?.saidLastResort ?? new Set();
    this.#endpoints = endpoints;
    if (before) this.#selected = before.#selected;
    this.watched = endpoints.map((endpoint) => ({ owner: this, endpoint, target: acquire(endpoint) }));
    for (const one of this.watched) {
      one.target.users.add(one);
      this.counts.add(one.endpoint, conditionOf(one.target));
    }
  }

  /** An endpoint's condition is another one; true if others may receive than before. */
  move({ endpoint }: Watched, before: Condition, after: Condition): boolean {
    const changed = this.counts.move(endpoint, before, after);
    this.#stale ||= changed;
    return changed;
  }

  /** Chosen when somebody asks, and not for each of a thousand endpoints that go down one after the other. */
  selected(): Downstreams {
    if (this.#stale || !this.#selected) {
      const downstreams = chosenOf(this.#endpoints, (index) => conditionOf(this.watched[index]!.target), this.counts);
      const isNew = !this.#selected || !isSame(this.#selected.downstreams, downstreams);
      if (isNew) this.#selected = { version: ++version, downstreams };
      this.#stale = false;
    }
    return this.#selected!;
  }
}

/** What cannot be reached is down, whatever its probes said last. */
export function conditionOf({ lost, monitor }: Pick<Target, 'lost' | 'monitor'>): Condition {
  return lost === undefined ? (monitor?.state ?? UNKNOWN).condition : 'down';
}

/** Element by element: they are the same objects as long as the source has the same list. */
function isSame(a: readonly Endpoint[], b: readonly Endpoint[]): boolean {
  return a.length === b.length && a.every((endpoint, index) => endpoint === b[index]);
}
