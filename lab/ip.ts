/** Ethernet, IPv4 and IPv6 headers from descriptions in which every field has a sound default and may also lie. */
import { ipBytes } from '../agent/address.ts';
import { checksum } from './checksum.ts';

export const ETHER = { IPV4: 0x0800, ARP: 0x0806, VLAN: 0x8100, IPV6: 0x86dd } as const;
export const PROTOCOL = { ICMP: 1, TCP: 6, UDP: 17, ICMPV6: 58 } as const;
/** The headers that may stand between IPv6 and UDP (RFC 8200, section 4). */
export const EXTENSION = { 'hop-by-hop': 0, routing: 43, fragment: 44, destination: 60 } as const;
/** The MACs of the single node's link, which frames have if they name no others: from its client to its node. */
export const CLIENT_MAC = '02:00:00:00:00:09';
export const NODE_MAC = '02:00:00:00:00:01';

export interface Ethernet {
  readonly smac?: string;
  readonly dmac?: string;
  /** A VLAN id: puts an 802.1Q tag into the frame. */
  readonly vlan?: number;
}

/** Where a fragment's bytes belong in the whole IP payload; `offset` in bytes, a multiple of 8. */
export interface Fragment {
  readonly id: number;
  readonly offset: number;
  readonly more: boolean;
}

export interface Ip extends Ethernet {
  readonly src: string;
  readonly dst: string;
  /** TTL or hop limit; 64. */
  readonly ttl?: number;
  /** TOS or traffic class; 0. */
  readonly tos?: number;
  /** With an offset above 0 the payload follows the IP header directly. */
  readonly fragment?: Fragment;
}

export interface Ip4 extends Ip {
  /** What the header claims to be long, in 32-bit words; 5. Above that it is filled with NOP options. */
  readonly ihlWords?: number;
  /** What the header claims of the packet's length in bytes; the truth. */
  readonly totLen?: number;
  readonly id?: number;
  /** Don't fragment; true unless it is a fragment. */
  readonly df?: boolean;
  readonly ipCsum?: 'valid' | 'wrong';
}

export interface Ip6 extends Ip {
  /** Extension headers in their order; `words` of 8 bytes beyond the first 8, at most 31. */
  readonly extensions?: readonly { readonly type: 'hop-by-hop' | 'routing' | 'destination'; readonly words?: number }[];
  /** What the header claims of its payload's length in bytes; the truth. */
  readonly payloadLen?: number;
}

/** An IPv4 packet of any protocol around `body`. */
export function ip4(fields: Ip4, protocol: number, body: Uint8Array): Buffer {
  const { ttl = 64, tos = 0, ihlWords = 5, fragment, id = fragment?.id ?? 0, df = !fragment } = fields;
  const header = Buffer.alloc(Math.max(5, ihlWords) * 4, 1);
  header.writeUInt8(0x40 | ihlWords, 0);
  header.writeUInt8(tos, 1);
  header.writeUInt16BE(fields.totLen ?? header.length + body.length, 2);
  header.writeUInt16BE(id, 4);
  header.writeUInt16BE((df ? 0x4000 : 0) | (fragment?.more ? 0x2000 : 0) | ((fragment?.offset ?? 0) >> 3), 6);
  header.writeUInt8(ttl, 8);
  header.writeUInt8(protocol, 9);
  header.writeUInt16BE(0, 10);
  header.set(ipBytes(4, fields.src).subarray(0, 4), 12);
  header.set(ipBytes(4, fields.dst).subarray(0, 4), 16);
  header.writeUInt16BE(checksum(header) ^ (fields.ipCsum === 'wrong' ? 0x5555 : 0), 10);
  return ethernet(fields, ETHER.IPV4, Buffer.concat([header, body]));
}

/** An IPv6 packet of any protocol around `body`. */
export function ip6(fields: Ip6, protocol: number, body: Uint8Array): Buffer {
  const { ttl = 64, tos = 0, extensions = [], fragment } = fields;
  const chain = [...extensions.map(({ type }) => EXTENSION[type]), ...(fragment ? [EXTENSION.fragment] : []), protocol];
  const headers = extensions.map(({ words = 0 }, index): Buffer => {
    // An experimental option (RFC 4727) that may be skipped fills a header: Linux takes no padding above 7 bytes.
    const bytes = Buffer.alloc(8 + words * 8);
    bytes.set([chain[index + 1]!, words, 0x1e, bytes.length - 4]);
    // In a routing header the same byte says how many segments are left.
    if (extensions[index]!.type === 'routing') bytes.writeUInt8(0, 3);
    return bytes;
  });
  if (fragment) headers.push(fragmentHeader(fragment, protocol));
  const payload = Buffer.concat([...headers, body]);
  const header = Buffer.alloc(40);
  header.writeUInt32BE(0x60000000 + tos * 0x100000, 0);
  header.writeUInt16BE(fields.payloadLen ?? payload.length, 4);
  header.writeUInt8(chain[0]!, 6);
  header.writeUInt8(ttl, 7);
  header.set(ipBytes(6, fields.src), 8);
  header.set(ipBytes(6, fields.dst), 24);
  return ethernet(fields, ETHER.IPV6, Buffer.concat([header, payload]));
}

/** Any frame: an Ethernet header, with a VLAN tag if asked for, before `body`. Not padded to 60 bytes. */
export function ethernet(
  { smac = CLIENT_MAC, dmac = NODE_MAC, vlan }: Ethernet,
  type: number,
  body: Uint8Array,
): Buffer {
  const tag = vlan === undefined ? [] : [ETHER.VLAN >> 8, ETHER.VLAN & 0xff, vlan >> 8, vlan & 0xff];
  return Buffer.concat([macBytes(dmac), macBytes(smac), Buffer.from([...tag, type >> 8, type & 0xff]), body]);
}

function fragmentHeader({ id, offset, more }: Fragment, protocol: number): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt8(protocol, 0);
  header.writeUInt16BE((offset & ~7) | (more ? 1 : 0), 2);
  header.writeUInt32BE(id, 4);
  return header;
}

/** The 6 bytes of a MAC written with colons. */
export function macBytes(text: string): Buffer {
  return Buffer.from(text.replaceAll(':', ''), 'hex');
}
