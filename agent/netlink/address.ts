/** The host's own addresses (linux/if_addr.h). */
import { decodeIp, familyOf, type IpAddress } from '../address.ts';
import type { Link } from './link.ts';
import { type Attributes, decodePayload, LITTLE_ENDIAN } from './message.ts';

/** An address of this network namespace and the interface that it is on. */
export interface HostAddress extends IpAddress {
  readonly ifindex: number;
}

const IFADDRMSG = 8;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_FLAGS = 8;
const IFA_F_DADFAILED = 0x08;

/** Dummies on which a service proxy of IPVS keeps the addresses of all Services: of kube-proxy, and of kube-router. */
const SERVICE_LINKS: readonly string[] = ['kube-ipvs0', 'kube-dummy-if'];

/** The addresses that are the host's own, and not a Service's that IPVS takes here; on another interface too, it is. */
export function ownAddresses(addresses: readonly HostAddress[], links: readonly Link[]): HostAddress[] {
  const services = new Set(links.filter(({ name }) => SERVICE_LINKS.includes(name)).map(({ index }) => index));
  return addresses.filter(({ ifindex }) => !services.has(ifindex));
}

/** The payload of an RTM_GETADDR dump of all addresses, of both families. */
export function addressesRequest(): Uint8Array {
  return new Uint8Array(IFADDRMSG);
}

/** The address in the payload of an RTM_NEWADDR; undefined if it is of another family, or in use elsewhere (RFC 4862). */
export function decodeAddress(payload: Uint8Array): HostAddress | undefined {
  const { header, attributes } = decodePayload(payload, IFADDRMSG);
  const family = familyOf(header.getUint8(0));
  if (family === undefined || failed(header, attributes)) return undefined;
  // With a peer, IFA_ADDRESS is the peer's; IPv6 without a peer has no IFA_LOCAL.
  const bytes = attributes.bytes(IFA_LOCAL) ?? attributes.bytes(IFA_ADDRESS);
  return bytes && { ...decodeIp(family, bytes), ifindex: header.getUint32(4, LITTLE_ENDIAN) };
}

function failed(header: DataView, attributes: Attributes): boolean {
  const flags = attributes.u32(IFA_FLAGS) ?? header.getUint8(2);
  return (flags & IFA_F_DADFAILED) !== 0;
}
