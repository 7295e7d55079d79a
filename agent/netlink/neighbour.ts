/** Neighbours: which addresses the kernel can reach on a link, and stations behind a bridge's ports (linux/neighbour.h). */
import { decodeIp, encodeIp, FAMILIES, familyOf, type IpAddress } from '../address.ts';
import { macBytes, macText } from './link.ts';
import { attribute, decodePayload, joined, LITTLE_ENDIAN, u32 } from './message.ts';

/** An entry of the neighbour tables of IPv4 (ARP) and IPv6 (neighbour discovery). */
export interface Neighbour extends IpAddress {
  readonly ifindex: number;
  /** Nobody has answered for the address, as yet or at all (NUD_INCOMPLETE, NUD_FAILED). */
  readonly unresolved: boolean;
  /** It was asked and has not answered; nobody asks it any more (NUD_FAILED). */
  readonly failed: boolean;
  /** As `02:00:5e:00:00:01`; '' while it is not known. */
  readonly mac: string;
}

/** An entry of a bridge's table of MACs (FDB). */
export interface Station {
  /** Index of the bridge. */
  readonly bridge: number;
  /** Index of the port that the station is behind. */
  readonly port: number;
  readonly mac: string;
}

const NDMSG = 12;
const AF_BRIDGE = 7;
const NDA_DST = 1;
const NDA_LLADDR = 2;
const NDA_MASTER = 9;
const NUD_INCOMPLETE = 0x01;
const NUD_FAILED = 0x20;
const NTF_USE = 0x01;

/** The payload of an RTM_GETNEIGH for one entry. */
export function neighbourRequest(ifindex: number, address: IpAddress): Uint8Array {
  return joined(ndmsg(FAMILIES[address.family].af, ifindex, 0), attribute(NDA_DST, encodeIp(address)));
}

/**
 * The payload of an RTM_NEWNEIGH that has the kernel do what it does when it sends to the address, without a datagram:
 * what is not resolved is asked for, what is stale is asked whether it is there.
 */
export function useRequest(ifindex: number, address: IpAddress): Uint8Array {
  return joined(ndmsg(FAMILIES[address.family].af, ifindex, NTF_USE), attribute(NDA_DST, encodeIp(address)));
}

/** The payload of an RTM_GETNEIGH for the port of a bridge that a station is behind. */
export function stationRequest(bridge: number, mac: string): Uint8Array {
  return joined(ndmsg(AF_BRIDGE, 0, 0), attribute(NDA_LLADDR, macBytes(mac)), attribute(NDA_MASTER, u32(bridge)));
}

/** The neighbour in the payload of an RTM_NEWNEIGH; undefined if it is no IP address, as in a bridge's table of MACs. */
export function decodeNeighbour(payload: Uint8Array): Neighbour | undefined {
  const { header, attributes } = decodePayload(payload, NDMSG);
  const family = familyOf(header.getUint8(0));
  const bytes = attributes.bytes(NDA_DST);
  if (family === undefined || bytes === undefined) return undefined;
  const state = header.getUint16(8, LITTLE_ENDIAN);
  return {
    ...decodeIp(family, bytes),
    ifindex: header.getInt32(4, LITTLE_ENDIAN),
    unresolved: (state & (NUD_INCOMPLETE | NUD_FAILED)) !== 0,
    failed: (state & NUD_FAILED) !== 0,
    mac: macText(attributes.bytes(NDA_LLADDR)),
  };
}

/** The station in the payload of an RTM_NEWNEIGH; undefined if it is of no bridge. */
export function decodeStation(payload: Uint8Array): Station | undefined {
  const { header, attributes } = decodePayload(payload, NDMSG);
  const bridge = attributes.u32(NDA_MASTER);
  if (header.getUint8(0) !== AF_BRIDGE || bridge === undefined) return undefined;
  return { bridge, port: header.getInt32(4, LITTLE_ENDIAN), mac: macText(attributes.bytes(NDA_LLADDR)) };
}

function ndmsg(family: number, ifindex: number, flags: number): Uint8Array {
  const header = new DataView(new ArrayBuffer(NDMSG));
  header.setUint8(0, family);
  header.setInt32(4, ifindex, LITTLE_ENDIAN);
  header.setUint8(10, flags);
  return new Uint8Array(header.buffer);
}
