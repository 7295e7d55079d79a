/** What the agent needs to know of the network namespace that it runs in: plain data, read anew at each call. */
import { constants } from 'node:os';
import type { Family, IpAddress } from '../address.ts';
import { SystemError } from '../ffi/errno.ts';
import { addressesRequest, decodeAddress, type HostAddress } from './address.ts';
import { type Drops, decodeLinkDrops, decodeQueueDrops, queuesRequest, statsRequest } from './drops.ts';
import { decodeFilter, type Filter, filtersRequest, type Side } from './filter.ts';
import { decodeLink, type Link, linksRequest } from './link.ts';
import type { Message } from './message.ts';
import {
  decodeNeighbour,
  decodeStation,
  type Neighbour,
  neighbourRequest,
  type Station,
  stationRequest,
  useRequest,
} from './neighbour.ts';
import { decodeRoute, isMultipath, NO_ROUTE, type Route, RTM_F_FIB_MATCH, routeRequest } from './route.ts';
import { isByArrival, rulesRequest } from './rule.ts';
import { NLM_F_CREATE, NLM_F_DUMP, type Request, Rtnetlink } from './socket.ts';

/** Every call asks the kernel and throws SystemError when it refuses; what does not exist is a value, no error. */
export interface Host {
  links(): Link[];
  /** All scopes, both families; an address may be on several interfaces and is then listed for each. */
  addresses(): HostAddress[];
  /** The link of that index, if there is one. */
  link(ifindex: number): Link | undefined;
  /** The way to one address; undefined if there is none. */
  route(destination: IpAddress): Route | undefined;
  /** The way to one address, or in a word why there is none. */
  way(destination: IpAddress): Route | string;
  /** True if the way to the address is one of several. */
  isOneOfSeveral(destination: IpAddress): boolean;
  /** True if routes of the family also depend on where a datagram arrives: then `route` and `way` may be others' ways. */
  routesByArrival(family: Family): boolean;
  neighbour(ifindex: number, address: IpAddress): Neighbour | undefined;
  /** The port that a station is behind, as far as the bridge has learned it. */
  station(bridge: number, mac: string): Station | undefined;
  /** By index, packets that links or their queues have dropped on the way out, whichever are more. */
  egressDrops(): ReadonlyMap<number, number>;
  /** Has the kernel ask a neighbour whether it is there. Needs NET_ADMIN. */
  use(ifindex: number, address: IpAddress): void;
  /** The clsact filters of one side, in each chain in the order they run in; none without clsact or the interface. */
  filters(ifindex: number, side?: Side): Filter[];
  /** Releases the socket; a later call opens one anew. */
  close(): void;
}

/** The host as rtnetlink(7) shows it, in the network namespace of the calling thread. */
export function openHost(socket: Rtnetlink = new Rtnetlink()): Host {
  const one = (type: Request, payload: Uint8Array) => first(socket, type, payload);
  const way = (destination: IpAddress) => routeTo(socket, destination);
  return {
    links: () => socket.request('RTM_GETLINK', NLM_F_DUMP, linksRequest()).map(({ payload }) => decodeLink(payload)),
    addresses: () => known(socket.request('RTM_GETADDR', NLM_F_DUMP, addressesRequest()), decodeAddress),
    link: (ifindex) => decoded(one('RTM_GETLINK', linksRequest(ifindex)), decodeLink),
    route: (destination) => routeOnly(way(destination)),
    way,
    isOneOfSeveral: (destination) =>
      decoded(one('RTM_GETROUTE', routeRequest(destination, RTM_F_FIB_MATCH)), isMultipath) ?? false,
    routesByArrival: (family) =>
      socket.request('RTM_GETRULE', NLM_F_DUMP, rulesRequest(family)).some(({ payload }) => isByArrival(payload)),
    neighbour: (ifindex, address) => decoded(one('RTM_GETNEIGH', neighbourRequest(ifindex, address)), decodeNeighbour),
    station: (bridge, mac) => decoded(one('RTM_GETNEIGH', stationRequest(bridge, mac)), decodeStation),
    egressDrops: () =>
      larger([
        ...known(socket.request('RTM_GETSTATS', NLM_F_DUMP, statsRequest()), decodeLinkDrops),
        ...known(socket.request('RTM_GETQDISC', NLM_F_DUMP, queuesRequest()), decodeQueueDrops),
      ]),
    use: (ifindex, address) => void socket.request('RTM_NEWNEIGH', NLM_F_CREATE, useRequest(ifindex, address)),
    filters: (ifindex, side = 'ingress') =>
      known(socket.request('RTM_GETTFILTER', NLM_F_DUMP, filtersRequest(ifindex, side)), decodeFilter),
    close: () => socket.close(),
  };
}

function known<T>(messages: readonly Message[], decode: (payload: Uint8Array) => T | undefined): T[] {
  return messages.map(({ payload }) => decode(payload)).filter((entry) => entry !== undefined);
}

/** A redirected packet that a queue drops is the device's loss too on newer kernels, and not on 5.10: no sum of both. */
function larger(all: readonly Drops[]): ReadonlyMap<number, number> {
  const most = new Map<number, number>();
  for (const { ifindex, packets } of all) most.set(ifindex, Math.max(most.get(ifindex) ?? 0, packets));
  return most;
}

function decoded<T>(message: Message | undefined, decode: (payload: Uint8Array) => T | undefined): T | undefined {
  return message && decode(message.payload);
}

/** What a question for one thing is answered where there is none: none such, no such link, no such table. */
const ABSENT: readonly number[] = [
  constants.errno.ENOENT,
  constants.errno.ENODEV,
  constants.errno.EOPNOTSUPP,
  ...NO_ROUTE.keys(),
];

/** The one thing that was asked for; undefined if it does not exist. */
function first(socket: Rtnetlink, type: Request, payload: Uint8Array): Message | undefined {
  try {
    return socket.request(type, 0, payload)[0];
  } catch (error) {
    if (error instanceof SystemError && ABSENT.includes(error.errno)) return undefined;
    throw error;
  }
}

function routeTo(socket: Rtnetlink, destination: IpAddress): Route | string {
  try {
    const [message] = socket.request('RTM_GETROUTE', 0, routeRequest(destination));
    return message ? decodeRoute(message.payload) : 'no route';
  } catch (error) {
    const none = error instanceof SystemError ? NO_ROUTE.get(error.errno) : undefined;
    if (none !== undefined) return none;
    throw error;
  }
}

function routeOnly(way: Route | string): Route | undefined {
  return typeof way === 'string' ? undefined : way;
}
