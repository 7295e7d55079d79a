/** The route that the host would take to an address (linux/rtnetlink.h). */

import { constants } from 'node:os';
import { decodeIp, encodeIp, FAMILIES, type Family, familyOf, type IpAddress } from '../address.ts';
import { type Attributes, attribute, decodePayload, joined, LITTLE_ENDIAN } from './message.ts';

export interface Route {
  /** The interface it leaves by; the loopback if it is local. */
  readonly ifindex: number;
  /** The router on the way, of either family (RFC 5549); absent when the address itself is on the link. */
  readonly gateway?: IpAddress;
  /** Path MTU where the route or an ICMP message set one; else it is the link's. */
  readonly mtu?: number;
  /** It puts packets into others (IP tunnels, MPLS, SRv6), which only the kernel's own output does. */
  readonly encapsulates?: true;
  /** An address of this host. */
  readonly local: boolean;
}

/** What the kernel says when there is no way, by errno; a route of that type may be all that there is. */
export const NO_ROUTE: ReadonlyMap<number, string> = new Map([
  [constants.errno.ENETUNREACH, 'no route'],
  [constants.errno.EHOSTUNREACH, 'unreachable route'],
  [constants.errno.EACCES, 'prohibit route'],
  [constants.errno.EINVAL, 'blackhole route'],
]);

const RTMSG = 12;
const RTN_LOCAL = 2;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_METRICS = 8;
const RTA_MULTIPATH = 9;
const RTA_VIA = 18;
const RTA_ENCAP_TYPE = 21;
const RTA_NH_ID = 30;
const RTAX_MTU = 2;

/** rtm_flags: the entry of the table, with all its next hops, and not the way of one datagram. */
export const RTM_F_FIB_MATCH = 0x2000;

/** The payload of an RTM_GETROUTE for one destination. */
export function routeRequest(destination: IpAddress, flags = 0): Uint8Array {
  const bytes = encodeIp(destination);
  const header = new Uint8Array(RTMSG);
  header[0] = FAMILIES[destination.family].af;
  header[1] = bytes.length * 8; // rtm_dst_len, in bits
  new DataView(header.buffer).setUint32(8, flags, LITTLE_ENDIAN);
  return joined(header, attribute(RTA_DST, bytes));
}

/** The route in the payload of an RTM_NEWROUTE. */
export function decodeRoute(payload: Uint8Array): Route {
  const { header, attributes } = decodePayload(payload, RTMSG);
  const gateway = decodeGateway(header.getUint8(0), attributes);
  const mtu = attributes.nested(RTA_METRICS).u32(RTAX_MTU);
  return {
    ifindex: attributes.u32(RTA_OIF) ?? 0,
    ...(gateway !== undefined && { gateway }),
    ...(mtu !== undefined && { mtu }),
    ...(attributes.bytes(RTA_ENCAP_TYPE) !== undefined && { encapsulates: true as const }),
    local: header.getUint8(7) === RTN_LOCAL,
  };
}

/** True if the entry in the payload of an RTM_NEWROUTE has, or may have, several next hops. */
export function isMultipath(payload: Uint8Array): boolean {
  const { attributes } = decodePayload(payload, RTMSG);
  return attributes.bytes(RTA_MULTIPATH) !== undefined || attributes.bytes(RTA_NH_ID) !== undefined;
}

/** Where a route leads. */
export interface Prefix {
  readonly family: Family;
  readonly bytes: Uint8Array;
  /** Bits. */
  readonly length: number;
}

/** The destination in the payload of an RTM_NEWROUTE or RTM_DELROUTE; undefined if it is of another family. */
export function decodePrefix(payload: Uint8Array): Prefix | undefined {
  const { header, attributes } = decodePayload(payload, RTMSG);
  const family = familyOf(header.getUint8(0));
  if (family === undefined) return undefined;
  const bytes = attributes.bytes(RTA_DST) ?? new Uint8Array(FAMILIES[family].bytes);
  return { family, bytes, length: header.getUint8(1) };
}

/** RTA_GATEWAY is of the destination's family; RTA_VIA (struct rtvia) names its own. */
function decodeGateway(af: number, attributes: Attributes): IpAddress | undefined {
  const gateway = attributes.bytes(RTA_GATEWAY);
  const family = familyOf(af);
  if (gateway !== undefined && family !== undefined) return decodeIp(family, gateway);
  const via = attributes.bytes(RTA_VIA);
  const viaFamily = familyOf(attributes.u16(RTA_VIA) ?? 0);
  if (via === undefined || viaFamily === undefined) return undefined;
  return decodeIp(viaFamily, via.subarray(2));
}
