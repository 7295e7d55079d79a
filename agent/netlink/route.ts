/** The route that the host would take to an address (linux/rtnetlink.h). */

import { constants } from 'node:os';
import { decodeIp, encodeIp, FAMILIES, familyOf, type IpAddress } from '../address.ts';
import { type Attributes, attribute, decodePayload, joined } from './message.ts';

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

/** What the kernel says when there is no way: no route, or one of type unreachable, prohibit (EACCES), blackhole (EINVAL). */
export const NO_ROUTE: readonly number[] = [
  constants.errno.ENETUNREACH,
  constants.errno.EHOSTUNREACH,
  constants.errno.EACCES,
  constants.errno.EINVAL,
];

const RTMSG = 12;
const RTN_LOCAL = 2;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_METRICS = 8;
const RTA_VIA = 18;
const RTA_ENCAP_TYPE = 21;
const RTAX_MTU = 2;

/** The payload of an RTM_GETROUTE for one destination. */
export function routeRequest(destination: IpAddress): Uint8Array {
  const bytes = encodeIp(destination);
  const header = new Uint8Array(RTMSG);
  header[0] = FAMILIES[destination.family].af;
  header[1] = bytes.length * 8; // rtm_dst_len, in bits
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
