/** Rows of the packet tables: frames in, and for each what the program has to answer, send out and count. */
import type { Family } from '../../agent/address.ts';
import { onesSum } from '../../lab/checksum.ts';
import { type Udp, udp4, udp6 } from '../../lab/frame.ts';
import type { Ip } from '../../lab/ip.ts';
import { ACTION } from '../../lab/test-run.ts';
import { type ListenerName, portOf } from './listeners.ts';
import { ip, NET } from './node.ts';
import type { Arrival, Moved } from './rig.ts';

/** One frame and what becomes of it. */
export interface Step {
  readonly frame: Buffer;
  readonly arrival: Arrival;
  readonly action: number;
  readonly out: Buffer;
  /** All counters that move; an empty object says that none does. */
  readonly moved: Moved<ListenerName>;
  /** Why the safety net gets it, as it came, and for which downstream if one was chosen. */
  readonly handed?: { readonly verdict: string; readonly to?: Target };
}

/** Steps in their order, starting with all walks at the first slot and no fragment remembered. */
export interface Row {
  readonly name: string;
  readonly steps: readonly Step[];
}

export interface Target {
  readonly ip: string;
  readonly port: number;
}

/** A UDP datagram, or a fragment of one, as it comes and as it has to leave. */
export interface Datagram {
  readonly frame: Buffer;
  /** Bytes of UDP payload in it. */
  readonly bytes: number;
  readonly fields: Ip & Udp;
  /** The frame built anew for another destination and so many hops later: header, checksums and all. */
  readdressed(to: Target, hops: number): Buffer;
}

/** Both families, so that a table is written once. */
export interface Side {
  readonly family: Family;
  readonly udp: (fields: Ip & Udp) => Buffer;
  /** Host H of network K. */
  readonly ip: (net: number, host: number) => string;
  readonly node: string;
  readonly client: string;
}

const side = (family: Family, udp: Side['udp']): Side => ({
  family,
  udp,
  ip: (net, host) => ip(family, net, host),
  node: ip(family, NET.clients, 1),
  client: ip(family, NET.clients, 9),
});
export const IPV4 = side(4, udp4);
export const IPV6 = side(6, udp6);

/** Rows for both families. */
export function twins(rows: (side: Side) => readonly Row[]): Row[] {
  return [IPV4, IPV6].flatMap((side) =>
    rows(side).map(({ name, steps }) => ({ name: `IPv${side.family}: ${name}`, steps })),
  );
}

/** A frame from a description; `trailer` follows the IP packet, as an Ethernet frame's padding does. */
export function datagram<Fields extends Ip & Udp>(
  build: (fields: Fields) => Buffer,
  fields: Fields,
  trailer: Uint8Array = Buffer.alloc(0),
): Datagram {
  const make = (changed: Fields) => Buffer.concat([build(changed), trailer]);
  const frame = make(fields);
  return {
    frame,
    fields,
    bytes: fields.payload?.length ?? 0,
    readdressed: ({ ip: dst, port: dport }, hops) => {
      const changed = { ...fields, dst, dport, ttl: (fields.ttl ?? 64) - hops };
      if (fields.csum !== 'wrong') return make(changed);
      const at = frame.length - trailer.length - (fields.payload?.length ?? 0) - 2;
      const right = make({ ...changed, csum: 'valid' });
      const error = frame.readUInt16BE(at) + (0xffff - make({ ...fields, csum: 'valid' }).readUInt16BE(at));
      right.writeUInt16BE(onesSum(wordOf(right.readUInt16BE(at)), wordOf(error % 0xffff)), at);
      return right;
    },
  };
}

/** A datagram from the client to a listener's port on the node's address, unless the fields say otherwise. */
export function toListener(side: Side, name: ListenerName, fields: Partial<Ip & Udp> = {}): Datagram {
  const usual = { src: side.client, dst: side.node, sport: 40000, dport: portOf(name), payload: Buffer.from('hello') };
  return datagram(side.udp, { ...usual, ...fields });
}

/** Not ours: byte for byte as it came, for the next program to see, and no counter moves. */
export function untouched(frame: Buffer, arrival: Arrival = {}): Step {
  return { frame, arrival, action: ACTION.UNSPEC, out: frame, moved: {} };
}

/** Readdressed, one hop on, and redirected. */
export function forwarded(name: ListenerName, from: Datagram, to: Target, arrival: Arrival = {}): Step {
  const moved = { [name]: counted(from, 'pkts_forwarded', 'forwarded', arrival) };
  return { frame: from.frame, arrival, action: ACTION.REDIRECT, out: from.readdressed(to, 1), moved };
}

/** Readdressed and handed to a socket of this host: no hop. */
export function forwardedLocal(name: ListenerName, from: Datagram, to: Target): Step {
  const moved = { [name]: counted(from, 'pkts_forwarded', 'forwarded_local', {}) };
  return { frame: from.frame, arrival: {}, action: ACTION.UNSPEC, out: from.readdressed(to, 0), moved };
}

/** Another node's agent's to count: left to the receiver here as it came. */
export function passed(name: ListenerName, from: Datagram): Step {
  return { ...untouched(from.frame), moved: { [name]: { already_spread: 1 } } };
}

/** Handed to the safety net as it came, for this downstream. */
export function handed(name: ListenerName, verdict: string, from: Datagram, to: Target, arrival: Arrival = {}): Step {
  const moved = { [name]: counted(from, 'pkts_to_safety_net', verdict, arrival) };
  return { frame: from.frame, arrival, action: ACTION.SHOT, out: from.frame, moved, handed: { verdict, to } };
}

/** A later fragment that is handed over for the downstream of its first: bytes are counted, packets are not. */
export function handedAfter(name: ListenerName, verdict: string, from: Datagram, to: Target): Step {
  const moved = { [name]: { bytes_received: from.bytes } };
  return { frame: from.frame, arrival: {}, action: ACTION.SHOT, out: from.frame, moved, handed: { verdict, to } };
}

/** A later fragment before its first: the safety net keeps a copy, the stack has it too for whom else it may be. */
export function early(from: Datagram, arrival: Arrival = {}): Step {
  return { ...untouched(from.frame, arrival), handed: { verdict: 'fragment' } };
}

export function dropped(name: ListenerName, verdict: string, from: Datagram): Step {
  const moved = { [name]: counted(from, 'pkts_dropped', verdict, {}) };
  return { frame: from.frame, arrival: {}, action: ACTION.SHOT, out: from.frame, moved };
}

/** A later fragment goes where the first went. It is no datagram of its own: bytes are counted, packets are not. */
export function followed(name: ListenerName, from: Datagram, to: Target): Step {
  const moved = { [name]: { bytes_received: from.bytes, bytes_forwarded: from.bytes } };
  return { frame: from.frame, arrival: {}, action: ACTION.REDIRECT, out: from.readdressed(to, 1), moved };
}

function counted({ bytes }: Datagram, fate: string, verdict: string, { gsoSegments = 1 }: Arrival) {
  const received = { pkts_received: gsoSegments, [fate]: gsoSegments, [verdict]: gsoSegments };
  const known = bytes > 0 && verdict !== 'malformed';
  if (!known) return received;
  return { ...received, bytes_received: bytes, ...(fate === 'pkts_forwarded' && { bytes_forwarded: bytes }) };
}

function wordOf(value: number): Buffer {
  return Buffer.from([value >> 8, value & 0xff]);
}
