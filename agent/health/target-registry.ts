/** Who is watched: the endpoints that each listener has, and one monitor for all of them that are the same target. */
import type { Endpoint, Listener } from '../model.ts';
import type { Monitor } from './monitor.ts';
import type { Prober } from './prober.ts';

/** A listener's endpoints as it last had them, and by the same place their monitors; none where nothing is probed. */
export interface Entry {
  readonly listener: Listener;
  readonly endpoints: readonly Endpoint[];
  readonly monitors: readonly Monitor[];
}

export interface TargetRegistryDependencies {
  /** Absent: nothing is probed. */
  readonly prober?: Prober | undefined;
  readonly open: (endpoint: Endpoint) => Monitor;
}

interface Shared {
  readonly monitor: Monitor;
  /** How many endpoints, of all listeners. */
  users: number;
}

export class TargetRegistry {
  readonly #deps: TargetRegistryDependencies;
  readonly #shared = new Map<string, Shared>();
  readonly #entries = new Map<number, Entry>();

  constructor(dependencies: TargetRegistryDependencies) {
    this.#deps = dependencies;
  }

  /** Monitors begin for new endpoints and end for those that no listener has any more. */
  enter(listener: Listener, endpoints: readonly Endpoint[]): Entry {
    const old = this.#entries.get(listener.id);
    if (old?.endpoints === endpoints) return old;
    const { prober } = this.#deps;
    // The new ones first, or what is known of those that stay would be dropped in between.
    const monitors = prober
      ? endpoints.map((endpoint) => this.#acquire(keyOf(prober, listener, endpoint), endpoint))
      : [];
    const entry = { listener, endpoints, monitors };
    this.#entries.set(listener.id, entry);
    if (prober) for (const endpoint of old?.endpoints ?? []) this.#drop(keyOf(prober, listener, endpoint), prober);
    return entry;
  }

  entries(): readonly Entry[] {
    return [...this.#entries.values()];
  }

  monitors(): readonly Monitor[] {
    return [...this.#shared.values()].map(({ monitor }) => monitor);
  }

  #acquire(key: string, endpoint: Endpoint): Monitor {
    const shared = this.#shared.get(key) ?? { monitor: this.#deps.open(endpoint), users: 0 };
    shared.users++;
    this.#shared.set(key, shared);
    return shared.monitor;
  }

  #drop(key: string, prober: Prober): void {
    const shared = this.#shared.get(key);
    if (!shared || --shared.users > 0) return;
    this.#shared.delete(key);
    shared.monitor.close();
    prober.release(shared.monitor.address);
  }
}

/**
 * What makes two endpoints one target: what the prober asks, and for Kubernetes the pod behind it, so that a pod that is
 * given a dead one's address does not inherit its health. The names in a static list are labels, no identities.
 */
function keyOf(prober: Prober, { endpoints }: Listener, { address, name = '' }: Endpoint): string {
  return `${prober.keyOf(address)} ${endpoints.kind === 'kubernetes' ? name : ''}`;
}
