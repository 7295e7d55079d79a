/** Links: the network devices (linux/if_link.h, linux/if_arp.h). */
import { cString } from '../ffi/c-string.ts';
import { type Attributes, attribute, decodePayload, joined, LITTLE_ENDIAN, u32 } from './message.ts';

/** ARPHRD_ETHER; a device of any other type is not assumed to have an Ethernet header. */
export const ARPHRD_ETHER = 1;

export interface Link {
  readonly index: number;
  readonly name: string;
  /** Further names (`ip link property add … altname`). */
  readonly altNames: readonly string[];
  /** ARPHRD_*: what its frames look like. */
  readonly type: number;
  /** IFF_UP: switched on by its administrator; says nothing of a carrier. */
  readonly up: boolean;
  /** IFF_LOWER_UP: there is somebody at the other end. */
  readonly carrier: boolean;
  /** IFF_NOARP, IFF_POINTOPOINT: its neighbours are not resolved. */
  readonly noArp: boolean;
  /** Bytes of the largest L3 packet. */
  readonly mtu: number;
  /** Its link-layer address as `02:00:5e:00:00:01`; '' if it has none. */
  readonly mac: string;
  /** `veth`, `bridge`, `vxlan`, …; '' for hardware and loopback. */
  readonly kind: string;
  /** Index of the bridge, bond or VRF that it belongs to; 0: none. */
  readonly master: number;
  /** The UDP port on which a vxlan or geneve device takes its tunnel's datagrams. */
  readonly udpPort?: number;
}

const IFINFOMSG = 16;
const IFF_UP = 1;
const IFF_POINTOPOINT = 0x10;
const IFF_NOARP = 0x80;
const IFF_LOWER_UP = 0x10000;
const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_MASTER = 10;
const IFLA_LINKINFO = 18;
const IFLA_EXT_MASK = 29;
const IFLA_PROP_LIST = 52;
const IFLA_ALT_IFNAME = 53;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const RTEXT_FILTER_SKIP_STATS = 8;

/** By kind, the attribute of IFLA_INFO_DATA with the port in network order: IFLA_VXLAN_PORT, IFLA_GENEVE_PORT. */
const UDP_PORT = new Map([
  ['vxlan', 15],
  ['geneve', 5],
]);

/** The payload of an RTM_GETLINK dump of all links, or of one link's, without their counters. */
export function linksRequest(ifindex = 0): Uint8Array {
  const header = new DataView(new ArrayBuffer(IFINFOMSG));
  header.setInt32(4, ifindex, LITTLE_ENDIAN);
  const extensions = attribute(IFLA_EXT_MASK, u32(RTEXT_FILTER_SKIP_STATS));
  return joined(new Uint8Array(header.buffer), extensions);
}

/** The link in the payload of an RTM_NEWLINK. */
export function decodeLink(payload: Uint8Array): Link {
  const { header, attributes } = decodePayload(payload, IFINFOMSG);
  const info = attributes.nested(IFLA_LINKINFO);
  const kind = info.text(IFLA_INFO_KIND) ?? '';
  const udpPort = decodeUdpPort(kind, info);
  const flags = header.getUint32(8, LITTLE_ENDIAN);
  return {
    index: header.getInt32(4, LITTLE_ENDIAN),
    name: attributes.text(IFLA_IFNAME) ?? '',
    altNames: attributes.nested(IFLA_PROP_LIST).all(IFLA_ALT_IFNAME).map(cString),
    type: header.getUint16(2, LITTLE_ENDIAN),
    up: (flags & IFF_UP) !== 0,
    carrier: (flags & IFF_LOWER_UP) !== 0,
    noArp: (flags & (IFF_NOARP | IFF_POINTOPOINT)) !== 0,
    mtu: attributes.u32(IFLA_MTU) ?? 0,
    mac: macText(attributes.bytes(IFLA_ADDRESS)),
    kind,
    master: attributes.u32(IFLA_MASTER) ?? 0,
    ...(udpPort !== undefined && { udpPort }),
  };
}

/** The link of that name or alternative name. */
export function findLink(links: readonly Link[], name: string): Link | undefined {
  return links.find((link) => link.name === name || link.altNames.includes(name));
}

function decodeUdpPort(kind: string, info: Attributes): number | undefined {
  const type = UDP_PORT.get(kind);
  return type === undefined ? undefined : info.nested(IFLA_INFO_DATA).u16be(type);
}

/** A link-layer address as text. */
export function macText(bytes: Uint8Array = new Uint8Array(0)): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** The bytes of a link-layer address. */
export function macBytes(text: string): Uint8Array {
  return Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16));
}
