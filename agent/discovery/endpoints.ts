/** What the slices of a Service say together: one set of endpoints, whatever slice each of them stands in now. */
import type { Family } from '../address.ts';
import type { Endpoint } from '../model.ts';
import { type EndpointState, type Slice, type SliceEndpoint, type SlicePort, STATES } from './slice.ts';

export interface Resolution {
  /** In the order of their addresses, so that equal sets make equal tables. */
  readonly endpoints: readonly Endpoint[];
  /** Those that are not ready and not on their way out, in the same order. */
  readonly unready: readonly Endpoint[];
  /** Why slices of the Service give no endpoints, in the operator's words. */
  readonly remarks: readonly string[];
}

type WantedPort = number | string | undefined;

/**
 * The endpoints that may receive now: the ready ones of all slices, each once ("an endpoint may be duplicated in
 * different EndpointSlices", Kubernetes concepts, EndpointSlices); of a family that has none, the draining ones.
 */
export function resolveEndpoints(slices: Iterable<Slice>, port: WantedPort): Resolution {
  const best = new Map<string, SliceEndpoint & { port: number }>();
  const remarks = new Set<string>();
  for (const slice of slices) {
    const target = portOf(slice, port);
    if (typeof target === 'string') remarks.add(target);
    if (typeof target !== 'number') continue;
    for (const endpoint of slice.endpoints) {
      const key = `${endpoint.ip} ${target}`;
      const other = best.get(key);
      if (!other || isBetter(endpoint.state, other.state)) best.set(key, { ...endpoint, port: target });
    }
  }
  const all = [...best.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, endpoint]) => endpoint);
  return {
    endpoints: [...ofFamily(all, 4), ...ofFamily(all, 6)],
    unready: all.filter(({ state }) => state === 'unready').map((one) => ({ ...toEndpoint(one), unready: true })),
    remarks: [...remarks],
  };
}

/** How many addresses are in which state, each counted once. */
export function countStates(slices: Iterable<Slice>): Readonly<Record<EndpointState, number>> {
  const best = new Map<string, EndpointState>();
  for (const { endpoints } of slices) {
    for (const { ip, state } of endpoints) {
      const other = best.get(ip);
      if (!other || isBetter(state, other)) best.set(ip, state);
    }
  }
  const counts = { ready: 0, draining: 0, unready: 0, terminating: 0 };
  for (const state of best.values()) counts[state]++;
  return counts;
}

/** While an endpoint moves, one of its two slices lags: it must not vanish for that. */
function isBetter(state: EndpointState, than: EndpointState): boolean {
  return STATES.indexOf(state) < STATES.indexOf(than);
}

function ofFamily(all: readonly (SliceEndpoint & { port: number })[], family: Family): Endpoint[] {
  const ours = all.filter((endpoint) => endpoint.family === family);
  const ready = ours.filter(({ state }) => state === 'ready');
  const chosen = ready.length > 0 ? ready : ours.filter(({ state }) => state === 'draining');
  return chosen.map(toEndpoint);
}

function toEndpoint({ family, ip, port, name, nodeName, zone }: SliceEndpoint & { port: number }): Endpoint {
  return {
    address: { family, ip, port },
    weight: 1,
    ...(name === undefined ? {} : { name }),
    ...(nodeName === undefined ? {} : { nodeName }),
    ...(zone === undefined ? {} : { zone }),
  };
}

/** The UDP port of a slice's endpoints; a remark where it has none that fits; undefined where it has no endpoints. */
function portOf(slice: Slice, wanted: WantedPort): number | string | undefined {
  if (slice.addressType === 'FQDN') {
    return `EndpointSlice "${slice.name}" has addressType FQDN: names are not looked up, want IPv4 or IPv6`;
  }
  // A Service without pods has a slice that lists neither endpoints nor ports.
  if (slice.endpoints.length === 0) return undefined;
  const udp = slice.ports.filter(({ protocol }) => protocol === 'UDP');
  if (typeof wanted === 'number') return numberedPort(slice.ports, udp, wanted);
  if (wanted === undefined) return onlyPort(slice.ports, udp);
  return namedPort(slice.ports, udp, wanted);
}

/** A slice without ports, or with a port without a number, restricts nothing: then the number is taken as it is. */
function numberedPort(all: readonly SlicePort[], udp: readonly SlicePort[], wanted: number): number | string {
  const fits = all.length === 0 || udp.some(({ number }) => number === undefined || number === wanted);
  return fits ? wanted : `the endpoints have no UDP port ${wanted}, they have ${listed(all)}`;
}

function namedPort(all: readonly SlicePort[], udp: readonly SlicePort[], wanted: string): number | string {
  const found = udp.find(({ name }) => name === wanted);
  if (!found) return `the endpoints have no UDP port named "${wanted}", they have ${listed(all)}`;
  return found.number ?? `the endpoints' UDP port "${wanted}" has no number: set kubernetes.port to one`;
}

function onlyPort(all: readonly SlicePort[], udp: readonly SlicePort[]): number | string {
  const [first, second] = udp;
  if (!first) return `the endpoints have no UDP port, they have ${listed(all)}`;
  if (second) return `the endpoints have several UDP ports, ${listed(udp)}: set kubernetes.port to one of them`;
  return first.number ?? "the endpoints' UDP port has no number: set kubernetes.port to one";
}

function listed(ports: readonly SlicePort[]): string {
  if (ports.length === 0) return 'none';
  const words = ports.map(({ name, protocol, number }) => {
    return `${number ?? 'any'}/${protocol}${name === '' ? '' : ` "${name}"`}`;
  });
  return words.sort().join(', ');
}
