/** Who is probed and watched: one target for all endpoints that are the same, whichever listeners have them. */
import type { SocketAddress } from '../address.ts';
import { type Endpoint, type EndpointSet, familiesOf, type Listener } from '../model.ts';
import type { Reachability } from '../reachability/reachability.ts';
import { ListenerHealth, type Target } from './listener-health.ts';
import type { Monitor, OnRound } from './monitor.ts';
import type { Prober } from './prober.ts';

export interface TargetRegistryDependencies {
  /** Absent: nothing is probed. */
  readonly prober: Prober | undefined;
  readonly failOpen: boolean;
  readonly open: (address: SocketAddress, onRound: OnRound, wasOut: boolean) => Monitor;
  /** Whether an agent before this one did not use it; asked of the endpoints that a listener has at first. */
  readonly wasOut: (listener: Listener, address: SocketAddress) => boolean;
  /** Absent: nothing is known of the ways to them. */
  readonly reachability: Pick<Reachability, 'follow' | 'release' | 'lost'> | undefined;
  readonly onRound: (target: Target, ...round: Parameters<OnRound>) => void;
  /** No listener has it any more. */
  readonly onGone: (target: Target) => void;
}

type WasOut = (address: SocketAddress) => boolean;

export class TargetRegistry {
  readonly #deps: TargetRegistryDependencies;
  readonly #targets = new Map<string, Target>();
  readonly #byIp = new Map<string, Set<Target>>();
  /** By listener's name. */
  readonly #listeners = new Map<string, ListenerHealth>();

  constructor(dependencies: TargetRegistryDependencies) {
    this.#deps = dependencies;
  }

  /**
   * The listener with these endpoints, the same object as long as it has the same ones. What no table of the listener
   * takes is not probed either. Targets begin for new endpoints and end for those that no listener has any more.
   */
  enter(listener: Listener, { version, list }: EndpointSet): ListenerHealth {
    const families = familiesOf(listener);
    const from = `${version} ${families}`;
    const before = this.#listeners.get(listener.name);
    if (before?.from === from) return before;
    const { failOpen } = this.#deps;
    const taken = list.filter(({ address }) => families.includes(address.family));
    // What an agent before this one knew is of the endpoints that there are at first; an address may be another's later.
    const wasOut = (address: SocketAddress) => before === undefined && this.#deps.wasOut(listener, address);
    const acquire = (endpoint: Endpoint) => this.#acquire(listener, endpoint, wasOut);
    // The new ones first, or what is known of those that stay would be dropped in between.
    const entered = new ListenerHealth({ listener, from, endpoints: taken, acquire, failOpen, before });
    this.#listeners.set(listener.name, entered);
    if (before) this.#leave(before);
    return entered;
  }

  /** Drops the listener. */
  drop(name: string): void {
    const gone = this.#listeners.get(name);
    this.#listeners.delete(name);
    if (gone) this.#leave(gone);
  }

  get(name: string): ListenerHealth | undefined {
    return this.#listeners.get(name);
  }

  listeners(): IterableIterator<ListenerHealth> {
    return this.#listeners.values();
  }

  targets(): IterableIterator<Target> {
    return this.#targets.values();
  }

  /** The targets at an address. */
  at(ip: string): readonly Target[] {
    return [...(this.#byIp.get(ip) ?? [])];
  }

  #acquire(listener: Listener, { address, name = '' }: Endpoint, wasOut: WasOut): Target {
    const asked = this.#deps.prober?.keyOf(address) ?? address.ip;
    // What the prober asks, and for Kubernetes the pod behind it, so that a pod that is given a dead one's address does
    // not inherit its health. The names in a static list are labels, no identities.
    const key = `${asked} ${listener.endpoints.kind === 'kubernetes' ? name : ''}`;
    return this.#targets.get(key) ?? this.#open(key, address, wasOut);
  }

  #open(key: string, address: SocketAddress, wasOut: WasOut): Target {
    const { prober, reachability, open, onRound } = this.#deps;
    reachability?.follow(address);
    const lost = reachability?.lost(address.ip);
    const monitor = prober && open(address, (...round) => onRound(target, ...round), wasOut(address));
    const target: Target = { key, address, monitor, lost, users: new Set() };
    this.#targets.set(key, target);
    const neighbours = this.#byIp.get(address.ip) ?? new Set();
    this.#byIp.set(address.ip, neighbours.add(target));
    return target;
  }

  #leave({ watched }: ListenerHealth): void {
    for (const one of watched) {
      one.target.users.delete(one);
      if (one.target.users.size === 0) this.#close(one.target);
    }
  }

  #close(target: Target): void {
    const { address } = target;
    if (!this.#targets.delete(target.key)) return;
    const neighbours = this.#byIp.get(address.ip);
    neighbours?.delete(target);
    if (neighbours?.size === 0) {
      this.#byIp.delete(address.ip);
      this.#deps.reachability?.release(address.ip);
    }
    target.monitor?.close();
    this.#deps.prober?.release(address);
    this.#deps.onGone(target);
  }
}
