/** The routing table's answer for each downstream. */
import { type Family, formatAddress } from '../../address.ts';
import type { Endpoint, Listener } from '../../model.ts';
import type { Host } from '../../netlink/host.ts';
import type { Link } from '../../netlink/link.ts';
import type { ReceiverRoute } from '../routes.ts';

/** A listener's name and its endpoints. */
export type Receivers = readonly (readonly [listener: string, endpoints: readonly Endpoint[]])[];

/** Those that the config lists. */
export function staticReceivers(listeners: readonly Listener[]): Receivers {
  return listeners.flatMap(({ name, endpoints }) =>
    endpoints.kind === 'static' ? [[name, endpoints.list] as const] : [],
  );
}

export function receiverRoutes(
  receivers: Receivers,
  host: Pick<Host, 'route'>,
  links: readonly Link[],
): ReceiverRoute[] {
  return receivers.flatMap(([listener, endpoints]) =>
    endpoints.map(({ address }) => {
      const { family, port } = address;
      const unrouted = { listener, downstream: formatAddress(address), family, port };
      const route = host.route(address);
      const link = links.find(({ index }) => index === route?.ifindex);
      if (!route || !link) return unrouted;
      const mtu = Math.min(link.mtu, route.mtu ?? link.mtu);
      const byGateway = route.gateway && { byGateway: true as const };
      return { ...unrouted, out: { name: link.name, mtu, local: route.local, ...byGateway } };
    }),
  );
}

/** The interfaces that lead to downstreams, each once. */
export function egressInterfaces(routes: readonly ReceiverRoute[]): string[] {
  return [...new Set(routes.flatMap(({ out }) => (out && !out.local ? [out.name] : [])))];
}

/** Downstreams that are on a link, each address once, by family. */
export function neighboursOf(routes: readonly ReceiverRoute[]): Record<Family, number> {
  const direct = routes.filter(({ out }) => out && !out.local && !out.byGateway);
  const count = (of: Family) =>
    new Set(
      direct
        .filter(({ family }) => family === of)
        .map(({ downstream, port }) => downstream.slice(0, -`${port}`.length)),
    ).size;
  return { 4: count(4), 6: count(6) };
}
