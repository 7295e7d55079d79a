/**
 * The mirror of bpf/udp_fanout.h: sizes, offsets and codes, and the encoders of what goes into the maps. A test holds it
 * against clang, object.ts against the loaded maps. Integers are in host order, which is little-endian on every machine
 * that we ship for; ports and addresses are in network order.
 */
import {
  FAMILIES,
  type Family,
  type IpAddress,
  ipBytes,
  ipText,
  isLoopback,
  isWildcard,
  type SocketAddress,
} from '../../address.ts';
import { macBytes } from '../../netlink/link.ts';
import { type Stop, skipsOf } from '../detours.ts';

export const ABI = 4;

/** The programs of the object: on an interface's ingress. */
export const PROGRAM = 'udp_fanout';
/** On the way out of `lo`. */
export const OUT_PROGRAM = 'udp_fanout_out';
/** Attached nowhere: the agent runs it as a sign of life. */
export const RENEW_PROGRAM = 'udp_fanout_renew';

export const CONSTANTS = {
  MAX_LISTENERS: 256,
  MAX_SLOTS: 65536,
  MAX_TABLES: 512,
  MAX_BINDS: 8192,
  MAX_ADDRESSES: 65536,
  MAX_PEERS: 1024,
  MAX_FRAGMENTED: 16384,
  SAFETY_NET_BYTES: 4 << 20,
  COUNTERS_A_CELL: 4,
  KEPT_A_CELL: 256,
  LISTENER_NOTE_BYTES: 1024,
  ADDRESS_LOCAL: 1,
  ADDRESS_BOUND: 2,
  PORT_SPECIFIC: 1,
  PORT_WILDCARD: 2,
  BIND_SHARED: 1,
  NEXT_HOP_NEIGH: 0,
  NEXT_HOP_LOCAL: 1,
  NEXT_HOP_LOOPBACK: 2,
  OUT_MARK: 0xfb000000,
} as const;

/** Bytes and offsets of each struct. */
export const LAYOUT = {
  address_key: { size: 20, addr: 0, family: 16 },
  bind_key: { size: 24, addr: 0, ifindex: 16, port: 20, family: 22 },
  bind: { size: 12, listener: 0, table: 4, flags: 8 },
  peer_key: { size: 32, addr: 0, ifindex: 16, family: 20, port: 24, mac: 26 },
  slot: { size: 32, addr: 0, port: 16, hop: 18, ifindex: 20, mtu: 24, skip: 26, node: 28 },
  fragment_key: { size: 44, saddr: 0, daddr: 16, id: 32, ifindex: 36, family: 40 },
  fragment: { size: 56, slot: 0, seen_ns: 32, table: 40, at: 44, generation: 48, way: 52 },
  table_head: {
    size: 32,
    slots: 0,
    counters: 4,
    counters_a_cpu: 8,
    generation: 12,
    since: 16,
    previous: 20,
    kept: 24,
  },
  lease: { size: 16, until: 0, term: 8 },
  handed: { size: 56, slot: 0, listener: 32, verdict: 36, ifindex: 40, len: 44, segment: 48 },
  stats: {
    size: 328,
    pkts_received: 0,
    pkts_forwarded: 8,
    pkts_to_safety_net: 16,
    pkts_dropped: 24,
    bytes_received: 32,
    bytes_forwarded: 40,
    forwarded: 48,
    torn: 264,
    next_slot: 320,
  },
} as const;

const CELL = LAYOUT.slot.size;

export type Fate = 'FORWARDED' | 'HANDED' | 'DROPPED' | 'PASSED';

/** enum verdict in its order: the name in metrics, the fate of the datagram, what it means. */
export const VERDICTS: readonly { readonly name: string; readonly fate: Fate; readonly meaning: string }[] = [
  { name: 'forwarded', fate: 'FORWARDED', meaning: 'rewritten and sent to its next hop' },
  { name: 'forwarded_local', fate: 'FORWARDED', meaning: 'rewritten and handed to a socket of this host' },
  { name: 'ip_options', fate: 'HANDED', meaning: 'IPv4 options or IPv6 extension headers' },
  { name: 'fragment', fate: 'HANDED', meaning: 'fragments out of order, or a first one that could not be remembered' },
  { name: 'not_unicast', fate: 'HANDED', meaning: 'came in a broadcast or multicast frame' },
  { name: 'martian_source', fate: 'HANDED', meaning: 'a source address that may not be forwarded' },
  { name: 'loopback', fate: 'HANDED', meaning: 'the downstream is a loopback address of this host' },
  {
    name: 'hairpin',
    fate: 'HANDED',
    meaning: 'the sender is the downstream whose turn it was, or its node, and so are all others',
  },
  { name: 'ttl_exceeded', fate: 'HANDED', meaning: 'TTL or hop limit ran out here' },
  { name: 'mtu_exceeded', fate: 'HANDED', meaning: 'larger than the MTU towards the downstream' },
  { name: 'neigh_unresolved', fate: 'HANDED', meaning: 'the link-layer address of the next hop is not known' },
  { name: 'no_route', fate: 'HANDED', meaning: 'FIB: no route to the downstream' },
  { name: 'forwarding_off', fate: 'HANDED', meaning: 'FIB: forwarding is disabled and the way out is unknown' },
  { name: 'fib_lwt', fate: 'HANDED', meaning: 'FIB: the route encapsulates, which only the stack can do' },
  { name: 'fib_other', fate: 'HANDED', meaning: 'FIB: an answer that the program does not know' },
  { name: 'no_downstream', fate: 'DROPPED', meaning: 'no live downstream' },
  { name: 'malformed', fate: 'DROPPED', meaning: 'its lengths contradict each other' },
  { name: 'ip_checksum', fate: 'DROPPED', meaning: 'the checksum of its IPv4 header is wrong' },
  {
    name: 'downstream_gone',
    fate: 'DROPPED',
    meaning: 'the rest of a fragmented datagram whose downstream was removed',
  },
  { name: 'fib_blackhole', fate: 'DROPPED', meaning: 'FIB: blackhole route' },
  { name: 'fib_unreachable', fate: 'DROPPED', meaning: 'FIB: unreachable route' },
  { name: 'fib_prohibit', fate: 'DROPPED', meaning: 'FIB: prohibit route' },
  { name: 'rewrite_failed', fate: 'DROPPED', meaning: 'the packet could not be rewritten (out of memory)' },
  { name: 'redirect_failed', fate: 'DROPPED', meaning: 'the kernel refused the redirect' },
  { name: 'safety_net_full', fate: 'DROPPED', meaning: 'the safety net had no room left for it' },
  {
    name: 'already_spread',
    fate: 'PASSED',
    meaning: "another node's agent has sent it to a receiver here, and counts it",
  },
  { name: 'lease_expired', fate: 'PASSED', meaning: 'left to the stack: no agent has renewed the lease' },
];

/** Why later parts of datagrams are dropped: the fields of struct torn. */
export const TEARS = VERDICTS.slice(
  VERDICTS.findIndex(({ name }) => name === 'downstream_gone'),
  VERDICTS.findIndex(({ fate }) => fate === 'PASSED'),
).map(({ name }) => name);

/** How a slot's downstream is reached: enum next_hop, and the way out that is used where forwarding is off. */
export interface NextHop {
  readonly local: boolean;
  readonly egress?: Egress | undefined;
}

export interface Egress {
  readonly ifindex: number;
  /** Bytes of the largest IP packet. */
  readonly mtu: number;
}

/** Index of TABLES. */
export function tableIndex(listener: number, family: Family): number {
  return listener * 2 + (family === 6 ? 1 : 0);
}

export function encodeU32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  view(bytes).setUint32(0, value, true);
  return bytes;
}

export function encodeAddressKey({ family, ip }: IpAddress): Uint8Array {
  const { size, addr, family: at } = LAYOUT.address_key;
  const bytes = new Uint8Array(size);
  bytes.set(ipBytes(family, ip), addr);
  view(bytes).setUint32(at, FAMILIES[family].af, true);
  return bytes;
}

/** The key of a bind on one interface; of a wildcard bind, for the family asked. */
export function encodeBindKey(bind: SocketAddress, family: Family, ifindex: number): Uint8Array {
  const at = LAYOUT.bind_key;
  const bytes = new Uint8Array(at.size);
  if (!isWildcard(bind)) bytes.set(ipBytes(bind.family, bind.ip), at.addr);
  view(bytes).setUint32(at.ifindex, ifindex, true);
  view(bytes).setUint16(at.port, bind.port, false);
  bytes[at.family] = FAMILIES[family].af;
  return bytes;
}

export function encodeBind(listener: number, family: Family, flags = 0): Uint8Array {
  const bytes = new Uint8Array(LAYOUT.bind.size);
  view(bytes).setUint32(LAYOUT.bind.listener, listener, true);
  view(bytes).setUint32(LAYOUT.bind.table, tableIndex(listener, family), true);
  view(bytes).setUint32(LAYOUT.bind.flags, flags, true);
  return bytes;
}

/** The row that an entry of BINDS leads to, and the index of the interface that it is on. */
export function decodeBind(key: Uint8Array, value: Uint8Array): { readonly row: number; readonly ifindex: number } {
  return {
    row: view(value).getUint32(LAYOUT.bind.listener, true),
    ifindex: view(key).getUint32(LAYOUT.bind_key.ifindex, true),
  };
}

/** The key of a downstream on this host and another host on the link of that interface. */
export function encodePeerKey({ family, ip, port }: SocketAddress, ifindex: number, mac: string): Uint8Array {
  const at = LAYOUT.peer_key;
  const bytes = new Uint8Array(at.size);
  bytes.set(ipBytes(family, ip), at.addr);
  view(bytes).setUint32(at.ifindex, ifindex, true);
  view(bytes).setUint32(at.family, FAMILIES[family].af, true);
  view(bytes).setUint16(at.port, port, false);
  bytes.set(macBytes(mac), at.mac);
  return bytes;
}

/** A slot as the program reads it. */
export interface Slot extends Stop {
  readonly hop: NextHop;
}

/** How a table goes back to those before it: what the rest of a fragmented datagram is judged by. */
export interface Lineage {
  readonly generation: number;
  /** Generation of the listener's first table. */
  readonly since: number;
  /** Generation of the table that it replaces; 0: none. */
  readonly previous: number;
  /** For each slot of that table, whether its downstream is in this one. */
  readonly kept: readonly boolean[];
}

/**
 * The first cells of a table's parts behind the slots (`own`: the agent's row of counters), how many cells of counters a
 * row has, how many cells there are in all.
 */
export function tableCells(slots: number, { kept }: Pick<Lineage, 'kept'>, cpus: number) {
  const counters = 1 + slots + Math.ceil(kept.length / CONSTANTS.KEPT_A_CELL);
  const row = Math.ceil(slots / CONSTANTS.COUNTERS_A_CELL);
  const own = counters + row * cpus;
  return { kept: 1 + slots, counters, row, own, cells: own + row };
}

/** The head, the slots and the bits of a table as the map's first cells; the counters behind them start at 0. */
export function encodeTable(slots: readonly Slot[], lineage: Lineage, cpus: number): Uint8Array {
  const { kept, counters, row } = tableCells(slots.length, lineage, cpus);
  const bytes = new Uint8Array(counters * LAYOUT.slot.size);
  const data = view(bytes);
  const { generation, since, previous } = lineage;
  const head = { slots: slots.length, counters, counters_a_cpu: row, generation, since, previous, kept };
  for (const [field, value] of Object.entries(head)) {
    data.setUint32(LAYOUT.table_head[field as keyof typeof head], value, true);
  }
  const skips = skipsOf(slots);
  for (const [index, { address, node, hop }] of slots.entries()) {
    const at = (1 + index) * LAYOUT.slot.size;
    bytes.set(ipBytes(address.family, address.ip), at + LAYOUT.slot.addr);
    data.setUint16(at + LAYOUT.slot.port, address.port, false);
    data.setUint16(at + LAYOUT.slot.hop, hopCode(address, hop), true);
    data.setUint32(at + LAYOUT.slot.ifindex, hop.egress?.ifindex ?? 0, true);
    // No IP packet is larger than that.
    data.setUint16(at + LAYOUT.slot.mtu, Math.min(hop.egress?.mtu ?? 0, 0xffff), true);
    data.setUint16(at + LAYOUT.slot.skip, skips[index]!, true);
    data.setUint32(at + LAYOUT.slot.node, node === undefined ? 0 : foldOf(address.family, node), true);
  }
  // Words of 32 bits in little-endian order are bytes of 8.
  for (const [bit, is] of lineage.kept.entries())
    if (is) bytes[kept * LAYOUT.slot.size + (bit >> 3)]! |= 1 << (bit & 7);
  return bytes;
}

/** What encodeTable made, read again: the cells up to the counters of a table that somebody else has made. */
export function decodeTable(family: Family, bytes: Uint8Array): { slots: readonly Slot[]; lineage: Lineage } {
  const data = view(bytes);
  const head = (field: Exclude<keyof typeof LAYOUT.table_head, 'size'>) =>
    data.getUint32(LAYOUT.table_head[field], true);
  const slots = Array.from({ length: head('slots') }, (_, index) => decodeSlot(family, bytes, (1 + index) * CELL));
  const bits = (head('counters') - head('kept')) * CONSTANTS.KEPT_A_CELL;
  const kept = Array.from(
    { length: bits },
    (_, bit) => ((bytes[head('kept') * CELL + (bit >> 3)]! >> (bit & 7)) & 1) === 1,
  );
  const [generation, since, previous] = [head('generation'), head('since'), head('previous')];
  return { slots, lineage: { generation, since, previous, kept } };
}

/** Cells of the head, the slots and the bits of a table by its head: what decodeTable wants. */
export function cellsBeforeCounters(head: Uint8Array): number {
  return view(head).getUint32(LAYOUT.table_head.counters, true);
}

function decodeSlot(family: Family, bytes: Uint8Array, at: number): Slot {
  const data = view(bytes);
  const { addr, port, hop, ifindex, mtu } = LAYOUT.slot;
  const ip = ipText(bytes.subarray(at + addr, at + addr + (family === 4 ? 4 : 16)));
  const egress = { ifindex: data.getUint32(at + ifindex, true), mtu: data.getUint16(at + mtu, true) };
  return {
    address: { family, ip, port: data.getUint16(at + port, false) },
    hop: {
      local: data.getUint16(at + hop, true) === CONSTANTS.NEXT_HOP_LOCAL,
      egress: egress.ifindex === 0 ? undefined : egress,
    },
  };
}

/** The xor of an address's words, of IPv4 the address itself, in the order that a load of four bytes of it has. */
function foldOf(family: Family, ip: string): number {
  const words = new Uint32Array(ipBytes(family, ip).buffer);
  return (words[0]! ^ words[1]! ^ words[2]! ^ words[3]!) >>> 0;
}

function hopCode({ ip }: SocketAddress, { local }: NextHop): number {
  if (isLoopback(ip)) return CONSTANTS.NEXT_HOP_LOOPBACK;
  return local ? CONSTANTS.NEXT_HOP_LOCAL : CONSTANTS.NEXT_HOP_NEIGH;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
