/** Neighbours: which addresses the kernel can reach on a link (linux/neighbour.h). */
import { decodeIp, familyOf, type IpAddress } from '../address.ts';
import { decodePayload, LITTLE_ENDIAN } from './message.ts';

/** An entry of the neighbour tables of IPv4 (ARP) and IPv6 (neighbour discovery). */
export interface Neighbour extends IpAddress {
  readonly ifindex: number;
  /** Nobody has answered for the address (NUD_FAILED). */
  readonly failed: boolean;
}

const NDMSG = 12;
const NDA_DST = 1;
const NUD_FAILED = 0x20;

/** The neighbour in the payload of an RTM_NEWNEIGH; undefined if it is no IP address, as in a bridge's table of MACs. */
export function decodeNeighbour(payload: Uint8Array): Neighbour | undefined {
  const { header, attributes } = decodePayload(payload, NDMSG);
  const family = familyOf(header.getUint8(0));
  const bytes = attributes.bytes(NDA_DST);
  if (family === undefined || bytes === undefined) return undefined;
  const state = header.getUint16(8, LITTLE_ENDIAN);
  return { ...decodeIp(family, bytes), ifindex: header.getInt32(4, LITTLE_ENDIAN), failed: (state & NUD_FAILED) !== 0 };
}
