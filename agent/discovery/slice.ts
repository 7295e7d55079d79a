/**
 * An EndpointSlice as the API writes it, read into what spreading needs. Sources: the EndpointSlice v1 reference
 * (kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1) and v1beta1, which has a
 * `topology` map in place of `zone`.
 */
import { type Family, ipBytes, parseIp } from '../address.ts';

export interface Slice {
  readonly name: string;
  readonly addressType: 'IPv4' | 'IPv6' | 'FQDN';
  readonly ports: readonly SlicePort[];
  readonly endpoints: readonly SliceEndpoint[];
  /** Entries of `endpoints` that could not be read and are left out. */
  readonly malformed: number;
}

export interface SlicePort {
  readonly name: string;
  readonly protocol: string;
  /** Absent: the slice does not restrict ports. */
  readonly number?: number;
}

export interface SliceEndpoint {
  readonly family: Family;
  readonly ip: string;
  readonly state: EndpointState;
  readonly name?: string;
  readonly nodeName?: string;
  readonly zone?: string;
}

/** `draining` is terminating and still serving; from the best to the worst. */
export const STATES = ['ready', 'draining', 'unready', 'terminating'] as const;
export type EndpointState = (typeof STATES)[number];

type Json = Readonly<Record<string, unknown>>;

/** The slice in an API object, without the endpoints that cannot be read; undefined where nothing can. */
export function readSlice(object: unknown): Slice | undefined {
  const name = sliceName(object);
  if (name === undefined || !isObject(object)) return undefined;
  const { addressType, endpoints } = object;
  if (addressType !== 'IPv4' && addressType !== 'IPv6' && addressType !== 'FQDN') return undefined;
  const ports = readPorts(object.ports);
  if (!ports || !isListOrAbsent(endpoints)) return undefined;
  if (addressType === 'FQDN') return { name, addressType, ports, endpoints: [], malformed: 0 };
  const family = addressType === 'IPv4' ? 4 : 6;
  const all = (endpoints ?? []).map((endpoint) => readEndpoint(endpoint, family));
  const readable = all.filter((endpoint) => endpoint !== undefined);
  return { name, addressType, ports, endpoints: readable, malformed: all.length - readable.length };
}

/** The name of an API object, readable or not otherwise. */
export function sliceName(object: unknown): string | undefined {
  const metadata = isObject(object) ? object.metadata : undefined;
  const name = isObject(metadata) ? metadata.name : undefined;
  return typeof name === 'string' && name !== '' ? name : undefined;
}

function readPorts(ports: unknown): readonly SlicePort[] | undefined {
  if (!isListOrAbsent(ports)) return undefined;
  const read = (ports ?? []).map(readPort);
  return read.every((port) => port !== undefined) ? read : undefined;
}

function readPort(entry: unknown): SlicePort | undefined {
  if (!isObject(entry)) return undefined;
  const { name, protocol, port } = entry;
  if (!isAbsent(port) && !(Number.isInteger(port) && Number(port) >= 1 && Number(port) <= 65535)) return undefined;
  return {
    name: typeof name === 'string' ? name : '',
    // "Must be UDP, TCP, or SCTP. Default is TCP."
    protocol: typeof protocol === 'string' ? protocol : 'TCP',
    ...(isAbsent(port) ? {} : { number: Number(port) }),
  };
}

function readEndpoint(endpoint: unknown, family: Family): SliceEndpoint | undefined {
  if (!isObject(endpoint) || !Array.isArray(endpoint.addresses)) return undefined;
  // "These are all assumed to be fungible and clients may choose to only use the first element."
  const [first] = endpoint.addresses as readonly unknown[];
  const address = typeof first === 'string' ? parseIp(first) : undefined;
  if (address?.family !== family || !isOneReceiver(family, address.ip)) return undefined;
  const { conditions, topology, targetRef } = endpoint;
  const texts = {
    name: text(targetRef, 'name'),
    nodeName: text(endpoint, 'nodeName') ?? text(topology, 'kubernetes.io/hostname'),
    zone: text(endpoint, 'zone') ?? text(topology, 'topology.kubernetes.io/zone'),
  };
  const known = Object.fromEntries(Object.entries(texts).filter(([, value]) => value !== undefined));
  return { family, ip: address.ip, state: stateOf(isObject(conditions) ? conditions : {}), ...known };
}

/**
 * `ready` unknown means ready, `serving` unknown means as `ready` says, `terminating` unknown means not. A terminating
 * endpoint is never ready here, also where publishNotReadyAddresses makes the API call it so.
 */
function stateOf({ ready, serving, terminating }: Json): EndpointState {
  const isReady = ready !== false;
  if (terminating !== true) return isReady ? 'ready' : 'unready';
  return (isAbsent(serving) ? isReady : serving === true) ? 'draining' : 'terminating';
}

/** The API refuses these for Services; a slice that somebody wrote by hand must not loop a datagram back to us. */
function isOneReceiver(family: Family, ip: string): boolean {
  const [first = 0, second = 0] = ipBytes(family, ip);
  if (family === 4) return first !== 0 && first !== 127 && first < 224;
  return ip !== '::' && ip !== '::1' && first !== 0xff && !(first === 0xfe && (second & 0xc0) === 0x80);
}

function text(object: unknown, key: string): string | undefined {
  const value = isObject(object) ? object[key] : undefined;
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isAbsent(value: unknown): value is null | undefined {
  return value === undefined || value === null;
}

function isListOrAbsent(value: unknown): value is readonly unknown[] | null | undefined {
  return isAbsent(value) || Array.isArray(value);
}
