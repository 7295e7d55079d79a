/**
 * Where ip_forward is 0 the FIB refuses every look-up, yet the kernel still sends what it is told to send out of a known
 * interface. So for such nodes, and only for them, the agent asks the routing table itself.
 */
import { readFileSync } from 'node:fs';
import type { Family, IpAddress, SocketAddress } from '../../address.ts';
import type { Host } from '../../netlink/host.ts';
import type { Interface } from '../datapath.ts';
import type { Egress } from './abi.ts';
import type { Way } from './handed/handed-packets.ts';

export interface EgressLookup {
  /** Whether the family's downstreams need a way out of their own, since the FIB will not name one. */
  needed(family: Family): boolean;
  /** The way towards an address, if it is needed and there is one, and its neighbour is known. */
  find(address: SocketAddress): Egress | undefined;
}

/**
 * Answers for one pass over a listener's downstreams: what is the same for all of them, whether all of `interfaces`
 * forward the family and which links there are, is read once and only if it is asked for. A neighbour that is not resolved has
 * no way, so that the safety net gets what is for it: the kernel's own queue loses it without a name.
 */
export function egressLookup(
  host: Host,
  interfaces: readonly Interface[],
  isResolved: (address: IpAddress) => boolean = () => true,
): EgressLookup {
  const needed = once((family: Family) => !interfaces.every(({ name }) => forwards(family, name)));
  const mtuOf = once((ifindex: number) => host.links().find(({ index }) => index === ifindex)?.mtu);
  const find = (address: SocketAddress): Egress | undefined => {
    const route = needed(address.family) && isResolved(address) ? host.route(address) : undefined;
    const mtu = route && mtuOf(route.ifindex);
    return route && mtu !== undefined ? { ifindex: route.ifindex, mtu: Math.min(mtu, route.mtu ?? mtu) } : undefined;
  };
  return { needed, find };
}

/** Finds the way to an address and the bytes that fit there; undefined where there is none. The links are read once. */
export function wayLookup(host: Pick<Host, 'route' | 'links'>): (address: IpAddress) => Way | undefined {
  const links = once(() => new Map(host.links().map((link) => [link.index, link])));
  return (address) => {
    const route = host.route(address);
    const link = route && links(undefined).get(route.ifindex);
    if (!link) return undefined;
    const asks = !route.local && !route.encapsulates && !link.noArp;
    return {
      ...route,
      mtu: Math.min(link.mtu, route.mtu ?? link.mtu),
      ...(asks && { neighbour: route.gateway ?? address }),
    };
  };
}

/** net.ipv4.conf.NAME.forwarding; true where it cannot be read, since the FIB decides in the end. */
function forwards(family: Family, name: string): boolean {
  try {
    return readFileSync(`/proc/sys/net/ipv${family}/conf/${name}/forwarding`, 'utf8').trim() !== '0';
  } catch {
    return true;
  }
}

function once<K, V>(ask: (key: K) => V): (key: K) => V {
  const known = new Map<K, V>();
  return (key) => {
    if (!known.has(key)) known.set(key, ask(key));
    return known.get(key) as V;
  };
}
