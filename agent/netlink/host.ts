/** What the agent needs to know of the network namespace that it runs in: plain data, read anew at each call. */
import type { IpAddress } from '../address.ts';
import { SystemError } from '../ffi/errno.ts';
import { addressesRequest, decodeAddress, type HostAddress } from './address.ts';
import { decodeFilter, type Filter, filtersRequest, type Side } from './filter.ts';
import { decodeLink, type Link, linksRequest } from './link.ts';
import type { Message } from './message.ts';
import { decodeRoute, NO_ROUTE, type Route, routeRequest } from './route.ts';
import { NLM_F_DUMP, Rtnetlink } from './socket.ts';

/** Every call asks the kernel and throws SystemError when it refuses; what does not exist is a value, no error. */
export interface Host {
  links(): Link[];
  /** All scopes, both families; an address may be on several interfaces and is then listed for each. */
  addresses(): HostAddress[];
  /** The way to one address; undefined if there is none. */
  route(destination: IpAddress): Route | undefined;
  /** The clsact filters of one side, in each chain in the order they run in; none without clsact or the interface. */
  filters(ifindex: number, side?: Side): Filter[];
  /** Releases the socket; a later call opens one anew. */
  close(): void;
}

/** The host as rtnetlink(7) shows it, in the network namespace of the calling thread. */
export function openHost(socket: Rtnetlink = new Rtnetlink()): Host {
  return {
    links: () => socket.request('RTM_GETLINK', NLM_F_DUMP, linksRequest()).map(({ payload }) => decodeLink(payload)),
    addresses: () => known(socket.request('RTM_GETADDR', NLM_F_DUMP, addressesRequest()), decodeAddress),
    filters: (ifindex, side = 'ingress') =>
      known(socket.request('RTM_GETTFILTER', NLM_F_DUMP, filtersRequest(ifindex, side)), decodeFilter),
    route: (destination) => routeTo(socket, destination),
    close: () => socket.close(),
  };
}

function known<T>(messages: readonly Message[], decode: (payload: Uint8Array) => T | undefined): T[] {
  return messages.map(({ payload }) => decode(payload)).filter((entry) => entry !== undefined);
}

function routeTo(socket: Rtnetlink, destination: IpAddress): Route | undefined {
  try {
    const [message] = socket.request('RTM_GETROUTE', 0, routeRequest(destination));
    return message && decodeRoute(message.payload);
  } catch (error) {
    if (error instanceof SystemError && NO_ROUTE.includes(error.errno)) return undefined;
    throw error;
  }
}
