/** The ways from this node to the downstreams: is there one, and does it take what the interface takes. */
import type { Family } from '../address.ts';
import type { Link } from '../netlink/link.ts';
import { findLink } from '../netlink/link.ts';
import { type Finding, fail, ok, warn } from './finding.ts';
import { kernelListeners, type Wants } from './wants.ts';

/** What the routing table says of one downstream. */
export interface Way {
  readonly listener: string;
  /** As formatAddress writes it. */
  readonly downstream: string;
  readonly family: Family;
  /** Absent: there is no route. */
  readonly out?: { readonly name: string; readonly mtu: number; readonly local: boolean };
}

export interface RouteFacts {
  readonly links: readonly Link[];
  readonly ways: readonly Way[];
}

/** Bytes of IP and UDP header. */
const HEADERS = { 4: 28, 6: 48 } as const;

export function routeFindings({ links, ways }: RouteFacts, { listeners }: Wants): Finding[] {
  const isKernels = new Set(kernelListeners(listeners).map(({ name }) => name));
  return listeners.flatMap(({ name, interfaces }) => {
    const own = ways.filter(({ listener }) => listener === name);
    if (own.length === 0) return [];
    const mtu = Math.max(0, ...interfaces.map((nic) => findLink(links, nic)?.mtu ?? 0));
    return [reachable(name, own), ...(isKernels.has(name) ? sizes(name, own, mtu) : [])];
  });
}

function reachable(listener: string, ways: readonly Way[]): Finding {
  const what = `routes ${listener}`;
  const lost = ways.filter(({ out }) => !out).map(({ downstream }) => downstream);
  if (lost.length === 0) {
    const outs = [...new Set(ways.map(({ out }) => (out!.local ? 'this host' : out!.name)))];
    return ok(what, `each of ${ways.length} downstreams has a route (by ${outs.join(', ')})`);
  }
  const means = `no route to ${listed(lost)}: what would go there is left to the stack (no_route)`;
  const mend = 'see `ip route get ADDRESS`, and the CNI on this node';
  return lost.length === ways.length ? fail(what, means, mend) : warn(what, means, mend);
}

/** One line for each interface that takes less than the listener's. */
function sizes(listener: string, ways: readonly Way[], mtu: number): Finding[] {
  const narrow = new Map<string, Way>();
  for (const way of ways) {
    if (way.out && !way.out.local && way.out.mtu < mtu) narrow.set(`${way.out.name} ${way.out.mtu}`, way);
  }
  return [...narrow.values()].map(({ out, family, downstream }) => {
    const largest = out!.mtu - HEADERS[family];
    const means = `${mtu} bytes arrive, ${out!.mtu} leave by ${out!.name} (to ${downstream}): datagrams of more than ${largest} bytes are left to the stack (mtu_exceeded), which fragments them or, with DF, tells the sender`;
    return warn(
      `MTU ${listener}`,
      means,
      `have the senders stay below ${largest + 1} bytes, or raise the MTU of ${out!.name}`,
    );
  });
}

function listed(addresses: readonly string[]): string {
  const shown = addresses.slice(0, 5).join(', ');
  return addresses.length > 5 ? `${shown} and ${addresses.length - 5} more` : shown;
}
