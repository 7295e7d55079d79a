/** The routes from this node to the downstreams: is there one, and does it take what the interface takes. */
import { FAMILIES, type Family, isWildcard } from '../address.ts';
import type { Listener } from '../model.ts';
import { findLink, type Link } from '../netlink/link.ts';
import { type Finding, fail, ok, warn } from './finding.ts';
import { kernelListeners, type Requirements } from './requirements.ts';

/** What the routing table says of one downstream. */
export interface ReceiverRoute {
  readonly listener: string;
  /** As formatAddress writes it. */
  readonly downstream: string;
  readonly family: Family;
  readonly port: number;
  /** Absent: there is no route. */
  readonly out?: {
    readonly name: string;
    readonly mtu: number;
    readonly local: boolean;
    /** Absent: the downstream itself is on the link. */
    readonly byGateway?: true;
  };
}

export interface RouteFacts {
  readonly links: readonly Link[];
  readonly routes: readonly ReceiverRoute[];
}

export function routeFindings({ links, routes }: RouteFacts, { listeners }: Requirements): Finding[] {
  const isKernels = new Set(kernelListeners(listeners).map(({ name }) => name));
  return listeners.flatMap((listener) => {
    const { name, interfaces } = listener;
    const own = routes.filter(({ listener }) => listener === name);
    if (own.length === 0) return [];
    const mtu = Math.max(0, ...interfaces.map((nic) => findLink(links, nic)?.mtu ?? 0));
    return [reachable(name, own), ...spreadAgain(listener, own), ...(isKernels.has(name) ? sizes(name, own, mtu) : [])];
  });
}

function reachable(listener: string, routes: readonly ReceiverRoute[]): Finding {
  const what = `routes ${listener}`;
  const lost = routes.filter(({ out }) => !out).map(({ downstream }) => downstream);
  if (lost.length === 0) {
    const outs = [...new Set(routes.map(({ out }) => (out!.local ? 'this host' : out!.name)))];
    return ok(what, `each of ${routes.length} downstreams has a route (by ${outs.join(', ')})`);
  }
  const means = `no route to ${listed(lost)}: what would go there is dropped (no_route)`;
  const mend = 'see `ip route get ADDRESS`, and the CNI on this node';
  return lost.length === routes.length ? fail(what, means, mend) : warn(what, means, mend);
}

/**
 * A wildcard listener takes what another node's agent has sent to a receiver on the host network with the same port. That a
 * downstream is one shows where it is this host, or a neighbour on the link by which the listener's datagrams come.
 */
function spreadAgain({ name, bind, interfaces }: Listener, routes: readonly ReceiverRoute[]): Finding[] {
  if (!isWildcard(bind)) return [];
  const hosts = routes.filter(({ port, out }) => {
    return port === bind.port && out && (out.local || (!out.byGateway && interfaces.includes(out.name)));
  });
  if (hosts.length === 0) return [];
  const means = `${listed(hosts.map(({ downstream }) => downstream))} may be on the host network with the listener's own port: a node that runs this config spreads again what another one has sent there, unless it can tell by its MAC`;
  return [
    warn(`host network ${name}`, means, 'give such receivers another port, or bind the address that the senders use'),
  ];
}

/** One line for each interface that takes less than the listener's. */
function sizes(listener: string, routes: readonly ReceiverRoute[], mtu: number): Finding[] {
  const narrow = new Map<string, ReceiverRoute>();
  for (const route of routes) {
    if (route.out && !route.out.local && route.out.mtu < mtu) narrow.set(`${route.out.name} ${route.out.mtu}`, route);
  }
  return [...narrow.values()].map(({ out, family, downstream }) => {
    const largest = out!.mtu - FAMILIES[family].headers;
    const means = `${mtu} bytes arrive, ${out!.mtu} leave by ${out!.name} (to ${downstream}): datagrams of more than ${largest} bytes take the slow way (mtu_exceeded), where they are cut up or, with pmtu: report, their sender is told`;
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
