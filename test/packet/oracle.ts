/**
 * What the program has to do, by the design's rules and the meanings in bpf/udp_fanout.h, without a look at how it does
 * it. Held against the program with random packets, so an error must be made twice, in two ways, to go unseen.
 */
import { BlockList } from 'node:net';
import { type Family, formatAddress, ipBytes, isWildcard, type SocketAddress } from '../../agent/address.ts';
import { type Fate, VERDICTS } from '../../agent/datapath/tc/abi.ts';
import type { Downstream } from '../../agent/model.ts';
import { onesSum } from '../../lab/checksum.ts';
import { ACTION } from '../../lab/test-run.ts';
import { ip as ipOf, MTU, NET, NODE_IPS } from './node.ts';
import { type Reading, readFrame } from './reading.ts';
import type { Arrival, Moved, Outcome } from './rig.ts';

/** A listener as the oracle wants it. */
export interface OracleListener {
  readonly name: string;
  readonly bind: SocketAddress;
  readonly on: readonly string[];
  /** The walk of each family that the bind takes. */
  readonly slots: ReadonlyMap<Family, readonly Place[]>;
}

/** A slot: a downstream, and the node that it lives on if that is known. */
type Place = Pick<Downstream, 'address' | 'node'>;

const FATE = new Map(VERDICTS.map(({ name, fate }) => [name, fate]));
const FATE_COUNTER: Partial<Record<Fate, string>> = {
  FORWARDED: 'pkts_forwarded',
  HANDED: 'pkts_to_safety_net',
  DROPPED: 'pkts_dropped',
};
/** What the FIB says of networks that nothing leads to. */
const NO_WAY: Readonly<Record<number, string>> = {
  [NET.blackhole]: 'fib_blackhole',
  [NET.unreachable]: 'fib_unreachable',
  [NET.prohibit]: 'fib_prohibit',
  [NET.nowhere]: 'no_route',
};

/** A host of the pods' network that has not answered, and one that nobody has asked for. */
const SILENT = 98;
const STRANGER = 99;

export class Oracle {
  readonly #listeners: readonly OracleListener[];
  readonly #mac: Buffer;
  readonly #noNeighbours: readonly string[];
  readonly #cursors = new Map<string, number>();
  /** Of each fragmented datagram: the way of its first part, or that a later one was there before. */
  readonly #fragments = new Map<
    string,
    { readonly to: SocketAddress; readonly listener: string; readonly fate: Fate } | 'early'
  >();

  /** `tellsFailed`: whether this kernel's FIB tells a neighbour that has failed from one that is there. */
  constructor(listeners: readonly OracleListener[], mac: Buffer, tellsFailed: boolean) {
    this.#listeners = listeners;
    this.#mac = mac;
    const hosts = tellsFailed ? [SILENT, STRANGER] : [STRANGER];
    this.#noNeighbours = ([4, 6] as const).flatMap((family) => hosts.map((host) => ipOf(family, NET.pods, host)));
  }

  run(frame: Buffer, { on = 'eth0', gsoSize = 0, gsoSegments = 0 }: Arrival): Outcome {
    const untouched = { action: ACTION.UNSPEC, frame, moved: {} };
    const cast = this.#cast(frame);
    const reading = cast === 'other' ? undefined : readFrame(frame, gsoSize);
    if (!reading) return untouched;
    const fault = faultOf(reading, cast);
    const length = gsoSize > 0 ? reading.at.udp + 8 - 14 + gsoSize : reading.packetLength;
    const key = reading.fragment && [on, reading.src, reading.dst, reading.fragment.id].join();
    if (key && reading.fragment?.part === 'later') {
      return isBroken(fault) ? untouched : this.#follow(frame, reading, key, length, fault);
    }

    const listener = this.#match(reading, on);
    if (!listener) return untouched;
    const book = (verdict: string, to?: SocketAddress) => {
      const out = to ? send(frame, reading, to, verdict) : frame;
      return {
        ...outcome(listener.name, verdict, out, reading.payload ?? 0, gsoSegments || 1),
        ...(FATE.get(verdict) === 'HANDED' && handedOver(frame, verdict, to)),
      };
    };
    if (isBroken(fault)) return book(fault);
    const place = this.#next(listener, reading);
    if (!place) return book('no_downstream');
    const to = place.address;
    let verdict = fault ?? (isForgery(place, reading.src) ? 'hairpin' : this.#way(to, reading.ttl, length));
    if (key) {
      if (this.#fragments.get(key) === 'early' && FATE.get(verdict) === 'FORWARDED') verdict = 'fragment';
      this.#fragments.set(key, { to, listener: listener.name, fate: FATE.get(verdict)! });
    }
    return book(verdict, to);
  }

  /** A later part has no port: it goes where the first went, adds its bytes, and is no datagram of its own. */
  #follow(frame: Buffer, reading: Reading, key: string, length: number, fault: string | undefined): Outcome {
    const known = this.#fragments.get(key);
    if (!known || known === 'early') {
      // Ours or not, the first will tell; the safety net keeps a copy until then.
      if (!this.#concerns(reading.dst)) return { action: ACTION.UNSPEC, frame, moved: {} };
      this.#fragments.set(key, 'early');
      const action = NODE_IPS.includes(reading.dst) ? ACTION.UNSPEC : ACTION.SHOT;
      return { action, frame, moved: {}, ...handedOver(frame, 'fragment') };
    }
    const bytes = reading.payload ?? 0;
    // The datagram was dropped with its first part.
    if (known.fate === 'DROPPED') {
      return { action: ACTION.SHOT, frame, moved: bytes > 0 ? { [known.listener]: { bytes_received: bytes } } : {} };
    }
    let verdict = fault ?? this.#way(known.to, reading.ttl, length);
    if (known.fate === 'HANDED' && FATE.get(verdict) !== 'HANDED') verdict = 'fragment';
    const out = send(frame, reading, known.to, verdict);
    const counters = {
      ...(bytes > 0 && { bytes_received: bytes }),
      ...(bytes > 0 && FATE.get(verdict) === 'FORWARDED' && { bytes_forwarded: bytes }),
    };
    const moved: Moved = Object.keys(counters).length > 0 ? { [known.listener]: counters } : {};
    const handed = FATE.get(verdict) === 'HANDED' && handedOver(frame, verdict, known.to);
    return { action: actionOf(verdict), frame: out, moved, ...handed };
  }

  #cast(frame: Buffer): 'this' | 'many' | 'other' {
    if (frame[0]! & 1) return 'many';
    return frame.subarray(0, 6).equals(this.#mac) ? 'this' : 'other';
  }

  /** The most specific: an address before a wildcard, a wildcard of one family before one of both. */
  #match({ dst, dport, family }: Reading, on: string): OracleListener | undefined {
    const here = this.#listeners.filter(({ bind, on: links, slots }) => {
      return bind.port === dport && links.includes(on) && slots.has(family);
    });
    const specific = here.find(({ bind }) => !isWildcard(bind) && bind.ip === dst);
    if (specific || !NODE_IPS.includes(dst)) return specific;
    const wild = here.filter(({ bind }) => isWildcard(bind));
    return wild.find(({ slots }) => slots.size === 1) ?? wild[0];
  }

  /**
   * The next place, but for who is there the first of those behind it that is elsewhere: on another node, or where all are
   * on one, at another address.
   */
  #next({ name, slots }: OracleListener, { family, src }: Reading): Place | undefined {
    const walk = slots.get(family) ?? [];
    const at = (this.#cursors.get(name + family) ?? 0) % walk.length;
    const place = walk[at];
    const behind = walk.map((_, step) => (at + 1 + step) % walk.length);
    const elsewhere = (of: (place: Place) => string) => behind.find((other) => of(walk[other]!) !== of(place!));
    const next =
      place && isAt(place, src) ? (elsewhere(hostOf) ?? elsewhere(({ address }) => address.ip) ?? behind[0]!) : at;
    this.#cursors.set(name + family, next + 1);
    return walk[next];
  }

  #way({ family, ip }: SocketAddress, ttl: number, length: number): string {
    if (NODE_IPS.includes(ip)) return 'forwarded_local';
    if (ttl <= 1) return 'ttl_exceeded';
    const net = ipBytes(family, ip)[1]!;
    if (net in NO_WAY) return NO_WAY[net]!;
    if (length > (MTU[net] ?? 1500)) return 'mtu_exceeded';
    if (this.#noNeighbours.includes(ip)) return 'neigh_unresolved';
    return net === NET.encapsulated ? 'fib_lwt' : 'forwarded';
  }

  #concerns(dst: string): boolean {
    return NODE_IPS.includes(dst) || this.#listeners.some(({ bind }) => bind.ip === dst && !isWildcard(bind));
  }
}

/** A node that is this host itself is in no datagram's way. */
function hostOf({ address, node = address.ip }: Place): string {
  return NODE_IPS.includes(node) ? address.ip : node;
}

/** A stack takes no datagram from outside that bears its own address. */
function isForgery(place: Place, sender: string): boolean {
  return isAt(place, sender) || [place.address.ip, sender].every((ip) => NODE_IPS.includes(ip));
}

function isAt(place: Place, sender: string): boolean {
  return place.address.ip === sender || hostOf(place) === sender;
}

/** Why it cannot be forwarded as it is, the weightiest reason; undefined if nothing speaks against it. */
function faultOf(
  { payload, extended, intact, family, src }: Reading,
  cast: 'this' | 'many' | 'other',
): string | undefined {
  if (payload === undefined) return 'malformed';
  if (!intact) return 'ip_checksum';
  if (cast === 'many') return 'not_unicast';
  if (extended) return 'ip_options';
  return NO_HOST[family].check(src, family === 4 ? 'ipv4' : 'ipv6') ? 'martian_source' : undefined;
}

function isBroken(fault: string | undefined): fault is string {
  return fault === 'malformed' || fault === 'ip_checksum';
}

/** Sources that no host may have (RFC 1812, 5.3.7; RFC 4291, 2.5). */
const NO_HOST = { 4: new BlockList(), 6: new BlockList() };
for (const [net, bits] of [
  ['0.0.0.0', 8],
  ['127.0.0.0', 8],
  ['224.0.0.0', 3],
] as const) {
  NO_HOST[4].addSubnet(net, bits, 'ipv4');
}
for (const [net, bits] of [
  ['::', 127],
  ['fe80::', 10],
  ['ff00::', 8],
] as const)
  NO_HOST[6].addSubnet(net, bits, 'ipv6');

function actionOf(verdict: string): number {
  if (verdict === 'forwarded') return ACTION.REDIRECT;
  return verdict === 'forwarded_local' ? ACTION.UNSPEC : ACTION.SHOT;
}

function outcome(listener: string, verdict: string, frame: Buffer, bytes: number, datagrams: number): Outcome {
  const fate = FATE.get(verdict)!;
  const counters = {
    pkts_received: datagrams,
    [FATE_COUNTER[fate]!]: datagrams,
    [verdict]: datagrams,
    ...(bytes > 0 && { bytes_received: bytes }),
    ...(bytes > 0 && fate === 'FORWARDED' && { bytes_forwarded: bytes }),
  };
  return { action: actionOf(verdict), frame, moved: { [listener]: counters } };
}

/** What the safety net gets: the packet as it came. */
function handedOver(frame: Buffer, verdict: string, to?: SocketAddress): Pick<Outcome, 'handed'> {
  return { handed: { verdict, ...(to && { to: formatAddress(to) }), packet: frame.toString('hex', 14) } };
}

/** The frame for its downstream; what does not go there from here stays as it was. */
function send(frame: Buffer, reading: Reading, to: SocketAddress, verdict: string): Buffer {
  if (FATE.get(verdict) !== 'FORWARDED') return frame;
  const out = Buffer.from(frame);
  const { at, family } = reading;
  if (verdict === 'forwarded') out[at.ttl]! -= 1;
  out.set(ipBytes(family, to.ip).subarray(0, family === 4 ? 4 : 16), at.dst);
  if (family === 4) {
    const header = 14;
    const sum = amended(
      frame.readUInt16BE(header + 10),
      frame.subarray(header + 8, header + 10),
      out.subarray(header + 8, header + 10),
    );
    out.writeUInt16BE(amended(sum, frame.subarray(at.dst, at.dst + 4), out.subarray(at.dst, at.dst + 4)), header + 10);
  }
  if (reading.fragment?.part === 'later') return out;
  out.writeUInt16BE(to.port, at.udp + 2);
  const sum = frame.readUInt16BE(at.udp + 6);
  // 0 says that there is no checksum, so none is made, and none that comes out as 0 is sent so (RFC 768).
  if (sum === 0) return out;
  const size = family === 4 ? 4 : 16;
  const covered = (bytes: Buffer) =>
    Buffer.concat([bytes.subarray(at.dst, at.dst + size), bytes.subarray(at.udp + 2, at.udp + 4)]);
  out.writeUInt16BE(amended(sum, covered(frame), covered(out)) || 0xffff, at.udp + 6);
  return out;
}

/** The checksum after a change of some of the bytes that it covers, as wrong as it was (RFC 1624, eqn. 3). */
function amended(sum: number, before: Uint8Array, after: Uint8Array): number {
  const value = (0xffff - sum + (0xffff - onesSum(before)) + onesSum(after)) % 0xffff;
  return value === 0 ? 0 : 0xffff - value;
}
