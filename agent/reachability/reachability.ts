/**
 * Which addresses this host cannot reach, as far as the kernel knows by itself: no route, a link that is down, a neighbour
 * that does not answer. Notices only mark what to look at; what is asked of the kernel is bounded, and nothing is polled.
 */
import type { Family, IpAddress } from '../address.ts';
import type { Host } from '../netlink/host.ts';
import type { Notice } from '../netlink/notices.ts';
import { Hop, hopKey } from './hop.ts';
import { PrefixIndex } from './prefix-index.ts';

/** Looks at routes and hops, each some ten microseconds: a tenth of a CPU at most, and 4096 of each within 9 s. */
const LOOKS = { most: 500, aDrain: 100 };
/** Neighbours that are asked in a drain: a hundred a second are no flood. */
const ASKS_A_DRAIN = 10;
/** What is lost is looked at again after so long, should the kernel have said nothing. */
const RECHECK_MS = 10_000;

export interface ReachabilityDependencies {
  readonly host: Pick<Host, 'way' | 'isOneOfSeveral' | 'routesByArrival' | 'link' | 'neighbour' | 'station'>;
  /** Has the kernel ask whether a neighbour is there. */
  readonly ask: (hop: Hop) => void;
  /** Milliseconds that only grow. */
  readonly now: () => number;
}

export interface ReachabilityListener {
  /** Something else speaks against the address than before, or nothing does. */
  onChange(ip: string): void;
  /** A way leads elsewhere. */
  onMoved(): void;
}

interface Target {
  readonly address: IpAddress;
  hop: Hop | undefined;
  /** Index and MTU of the way out, and the router on it. */
  out: string | undefined;
  gateway: IpAddress | undefined;
  /** Why there is no hop. */
  noRoute: string | undefined;
  lost: string | undefined;
}

export class Reachability {
  readonly #deps: ReachabilityDependencies;
  readonly #targets = new Map<string, Target>();
  readonly #prefixes = new PrefixIndex();
  readonly #hops = new Map<string, { readonly hop: Hop; readonly users: Set<Target> }>();
  /** What to look at: what a notice named, before what merely may have changed. */
  readonly #named = new Set<Target>();
  readonly #namedHops = new Set<Hop>();
  readonly #swept = new Set<Target | Hop>();
  readonly #doubted = new Set<Hop>();
  readonly #changed = new Set<string>();
  readonly #byArrival = new Map<Family, boolean>();
  #listener: ReachabilityListener | undefined;
  #looks = LOOKS.most;
  #recheckedAt = 0;
  #moved = false;
  #gatewaysVersion = 0;
  /** Somebody goes by whether neighbours are resolved. */
  #tellsResolved = false;

  constructor(dependencies: ReachabilityDependencies) {
    this.#deps = dependencies;
  }

  tell(listener: ReachabilityListener): void {
    this.#listener = listener;
  }

  /** Looks at it at once, as long as there are not too many. */
  follow(address: IpAddress): void {
    if (this.#targets.has(address.ip)) return;
    const nothing = { hop: undefined, out: undefined, gateway: undefined, noRoute: undefined, lost: undefined };
    const target: Target = { address, ...nothing };
    const moved = this.#moved;
    this.#targets.set(address.ip, target);
    this.#prefixes.add(address);
    if (this.#looks < 2) this.#swept.add(target);
    else this.#look(target);
    // Whoever begins to follow it asks by itself.
    this.#changed.delete(address.ip);
    this.#moved = moved;
  }

  release(ip: string): void {
    const target = this.#targets.get(ip);
    if (!target) return;
    this.#leaveHop(target);
    this.#targets.delete(ip);
    this.#prefixes.delete(ip);
    for (const set of [this.#named, this.#swept]) set.delete(target);
    this.#changed.delete(ip);
  }

  /** Why the address cannot be reached; undefined where nothing speaks against it. */
  lost(ip: string): string | undefined {
    return this.#targets.get(ip)?.lost;
  }

  /** The router of the same family on the way to the address; undefined where there is none, or nobody knows. */
  gateway({ ip, family }: IpAddress): string | undefined {
    const gateway = this.#targets.get(ip)?.gateway;
    return gateway?.family === family ? gateway.ip : undefined;
  }

  /** The address's own station on a link of this host's; undefined where a router leads to it, or nobody knows yet. */
  onLink({ ip }: IpAddress): { readonly ifindex: number; readonly mac: string } | undefined {
    const hop = this.#targets.get(ip)?.hop;
    if (hop?.address.ip !== ip) return undefined;
    const { ifindex, mac } = hop;
    hop.isNamed = true;
    return mac === '' ? undefined : { ifindex, mac };
  }

  /** Whether what is sent to the address leaves at once: its next hop's link-layer address is known, or none is needed. */
  isResolved({ ip }: IpAddress): boolean {
    this.#tellsResolved = true;
    return !this.#targets.get(ip)?.hop?.isDoubted;
  }

  /** Another number where `gateway` may answer differently. */
  get gatewaysVersion(): number {
    return this.#gatewaysVersion;
  }

  /** The links that lead to the addresses, a bridge's port as well as the bridge. */
  links(): ReadonlySet<number> {
    return new Set([...this.#hops.values()].flatMap(({ hop }) => [hop.ifindex, ...(hop.port ? [hop.port] : [])]));
  }

  notice(notice: Notice): void {
    switch (notice.kind) {
      case 'link':
        for (const { hop, users } of this.#hops.values()) {
          if (hop.ifindex !== notice.ifindex && hop.port !== notice.ifindex) continue;
          hop.stir();
          this.#namedHops.add(hop);
          // Routes may go and come with a link without a word of their own.
          if (hop.ifindex === notice.ifindex) for (const target of users) this.#named.add(target);
        }
        return;
      case 'neighbour': {
        const { ifindex, ip, unresolved } = notice.neighbour;
        const known = this.#hops.get(hopKey(ifindex, ip));
        if (!known) return;
        if (!unresolved) known.hop.confirm();
        this.#namedHops.add(known.hop);
        return;
      }
      case 'station': {
        const { bridge, mac } = notice.station;
        for (const { hop } of this.#hops.values()) {
          if (hop.ifindex === bridge && hop.mac === mac) this.#namedHops.add(hop);
        }
        return;
      }
      case 'route':
        for (const ip of this.#prefixes.within(notice.prefix)) this.#named.add(this.#targets.get(ip)!);
        return;
      case 'everything':
        this.#byArrival.clear();
        for (const { hop } of this.#hops.values()) this.#swept.add(hop);
        for (const target of this.#targets.values()) this.#swept.add(target);
    }
  }

  /** Looks at what was marked, as much as may be, and tells what came of it. */
  drained(): void {
    const now = this.#deps.now();
    this.#looks = Math.min(this.#looks + LOOKS.aDrain, LOOKS.most);
    for (const hop of this.#doubted) if (hop.isDue(now)) this.#namedHops.add(hop);
    if (now - this.#recheckedAt >= RECHECK_MS) this.#recheck(now);
    this.#each(this.#namedHops, (hop) => this.#lookHop(hop));
    this.#each(this.#named, (target) => this.#look(target));
    // Of what is marked again and again each has its turn: it is looked at in the order in which it was marked first.
    this.#each(this.#swept, (one) => (one instanceof Hop ? this.#lookHop(one) : this.#look(one)));
    this.#ask(now);
    this.#flush();
  }

  #each<T>(marked: Set<T>, look: (one: T) => void): void {
    for (const one of marked) {
      if (this.#looks <= 0) return;
      marked.delete(one);
      look(one);
    }
  }

  #recheck(now: number): void {
    this.#recheckedAt = now;
    for (const target of this.#targets.values()) {
      if (target.lost === undefined) continue;
      this.#swept.add(target);
      if (target.hop) this.#namedHops.add(target.hop);
    }
  }

  #look(target: Target): void {
    this.#looks--;
    const way = this.#deps.host.way(target.address);
    const { noRoute, out, lost, gateway } = target;
    target.gateway = typeof way === 'string' ? undefined : way.gateway;
    if (typeof way === 'string') {
      this.#leaveHop(target);
      target.noRoute = way;
      target.out = undefined;
    } else {
      target.noRoute = undefined;
      target.out = `${way.ifindex} ${way.mtu} ${way.gateway?.ip}`;
      if (way.local) this.#leaveHop(target);
      else this.#takeHop(target, way.ifindex, way.gateway ?? target.address);
    }
    this.#settle(target);
    const isNew = noRoute === undefined && out === undefined && lost === undefined;
    if (gateway?.ip !== target.gateway?.ip) this.#gatewaysVersion++;
    // What is looked at late was taken for a host on the link till now.
    if (out !== target.out && (!isNew || target.gateway)) this.#moved = true;
  }

  #takeHop(target: Target, ifindex: number, address: IpAddress): void {
    const key = hopKey(ifindex, address.ip);
    if (target.hop && hopKey(target.hop.ifindex, target.hop.address.ip) === key) return;
    this.#leaveHop(target);
    const known = this.#hops.get(key);
    const entry = known ?? { hop: new Hop(ifindex, address), users: new Set() };
    entry.users.add(target);
    target.hop = entry.hop;
    if (known) return;
    this.#hops.set(key, entry);
    this.#lookHop(entry.hop);
  }

  #leaveHop(target: Target): void {
    if (!target.hop) return;
    const { hop } = target;
    const key = hopKey(hop.ifindex, hop.address.ip);
    const users = this.#hops.get(key)?.users;
    target.hop = undefined;
    users?.delete(target);
    if (users?.size !== 0) return;
    this.#hops.delete(key);
    for (const set of [this.#namedHops, this.#swept, this.#doubted]) set.delete(hop);
  }

  #lookHop(hop: Hop): void {
    this.#looks--;
    const before = hop.trouble;
    const { mac } = hop;
    hop.look(this.#deps.host, this.#deps.now());
    if (hop.isDoubted) this.#doubted.add(hop);
    else this.#doubted.delete(hop);
    if (hop.isNamed && mac !== hop.mac) this.#moved = true;
    if (this.#tellsResolved && hop.wasDoubted !== hop.isDoubted) this.#moved = true;
    hop.wasDoubted = hop.isDoubted;
    if (before === hop.trouble) return;
    for (const target of this.#hops.get(hopKey(hop.ifindex, hop.address.ip))?.users ?? []) this.#named.add(target);
  }

  #settle(target: Target): void {
    const lost = this.#causeOf(target);
    if (lost === target.lost) return;
    target.lost = lost;
    this.#changed.add(target.address.ip);
  }

  #causeOf({ address, noRoute, hop }: Target): string | undefined {
    const cause = noRoute ?? hop?.trouble;
    if (cause === undefined || this.#isByArrival(address.family)) return undefined;
    if (noRoute !== undefined) return cause;
    this.#looks--;
    // Of several hops another one may be well, and the kernel chooses by flow.
    return this.#deps.host.isOneOfSeveral(address) ? undefined : cause;
  }

  /** Where rules go by the interface of arrival, what we are told is the way of this host's own datagrams. */
  #isByArrival(family: Family): boolean {
    const known = this.#byArrival.get(family) ?? this.#deps.host.routesByArrival(family);
    this.#byArrival.set(family, known);
    return known;
  }

  /** The kernel finds out that a neighbour is back only when it sends to it, and nobody sends to who is out. */
  #ask(now: number): void {
    let asks = 0;
    for (const hop of this.#doubted) {
      if (asks === ASKS_A_DRAIN) return;
      if (!hop.wantsAsking(now)) continue;
      asks++;
      hop.asked(now);
      this.#deps.ask(hop);
    }
  }

  #flush(): void {
    const changed = [...this.#changed];
    const moved = this.#moved;
    this.#changed.clear();
    this.#moved = false;
    for (const ip of changed) this.#listener?.onChange(ip);
    if (moved) this.#listener?.onMoved();
  }
}
