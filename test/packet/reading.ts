/** What a frame says of itself, read field by field as RFC 791, 768 and 8200 lay it out; for the oracle. */
import { createHash } from 'node:crypto';
import { type Family, ipText } from '../../agent/address.ts';
import { onesSum } from '../../lab/checksum.ts';
import { ETHER, EXTENSION, PROTOCOL } from '../../lab/ip.ts';

/** A UDP datagram or a fragment of one, with the places of the fields that forwarding changes. */
export interface Reading {
  readonly family: Family;
  readonly src: string;
  readonly dst: string;
  readonly ttl: number;
  /** What the IP header claims of the whole packet. */
  readonly packetLength: number;
  readonly extended: boolean;
  /** The header's checksum is right, or IPv6, or the header has options. */
  readonly intact: boolean;
  readonly fragment: { readonly id: number; readonly part: 'first' | 'later' } | undefined;
  /** The port that it is for; a later fragment does not know. */
  readonly dport: number | undefined;
  /** Bytes of UDP payload here; undefined where the lengths contradict each other. */
  readonly payload: number | undefined;
  readonly at: { readonly ttl: number; readonly dst: number; readonly udp: number };
}

interface Packet extends Omit<Reading, 'dport' | 'payload' | 'at'> {
  readonly dstAt: number;
  readonly ttlAt: number;
  /** Where UDP begins, and where the IP packet ends by its own account. */
  readonly body: number;
  readonly end: number;
  readonly truthful: boolean;
}

const IP_AT = 14;
/** The longest chain of extension headers that is walked. */
const LONGEST_CHAIN = 6;

/** A frame for a message: headers in full; all that follows only as its length and a digest. */
export function brief(frame: Buffer): string {
  const rest = frame.subarray(96);
  if (rest.length === 0) return frame.toString('hex');
  return `${frame.toString('hex', 0, 96)} + ${rest.length} ${createHash('sha1').update(rest).digest('hex')}`;
}

/** Undefined for a frame that is no UDP datagram, or whose UDP header is not all there. */
export function readFrame(frame: Buffer, gsoSize = 0): Reading | undefined {
  const etherType = frame.readUInt16BE(12);
  const packet = etherType === ETHER.IPV4 ? readIp4(frame) : etherType === ETHER.IPV6 ? readIp6(frame) : undefined;
  if (!packet) return undefined;
  const { dstAt, ttlAt, body, end, truthful, ...facts } = packet;
  const at = { ttl: ttlAt, dst: dstAt, udp: body };
  const room = end - body;
  if (facts.fragment?.part === 'later') {
    return { ...facts, at, dport: undefined, payload: truthful && room >= 0 ? room : undefined };
  }
  if (body + 8 > frame.length) return undefined;
  // The header of a first fragment speaks of the whole datagram, that of several in one packet of one of them.
  const length = gsoSize > 0 || facts.fragment ? room : frame.readUInt16BE(body + 4);
  const lies = !truthful || length < 8 || length > room;
  return { ...facts, at, dport: frame.readUInt16BE(body + 2), payload: lies ? undefined : length - 8 };
}

function readIp4(frame: Buffer): Packet | undefined {
  const header = (frame[IP_AT]! & 15) * 4;
  if (frame[IP_AT]! >> 4 !== 4 || header < 20 || frame[IP_AT + 9] !== PROTOCOL.UDP) return undefined;
  const packetLength = frame.readUInt16BE(IP_AT + 2);
  const word = frame.readUInt16BE(IP_AT + 6);
  const part = word & 0x1fff ? 'later' : word & 0x2000 ? 'first' : undefined;
  return {
    family: 4,
    src: ipText(frame.subarray(IP_AT + 12, IP_AT + 16)),
    dst: ipText(frame.subarray(IP_AT + 16, IP_AT + 20)),
    ttl: frame[IP_AT + 8]!,
    packetLength,
    extended: header > 20,
    intact: header > 20 || onesSum(frame.subarray(IP_AT, IP_AT + header)) === 0xffff,
    fragment: part && { id: frame.readUInt16BE(IP_AT + 4), part },
    dstAt: IP_AT + 16,
    ttlAt: IP_AT + 8,
    body: IP_AT + header,
    end: IP_AT + packetLength,
    truthful: packetLength >= header && IP_AT + packetLength <= frame.length,
  };
}

function readIp6(frame: Buffer): Packet | undefined {
  if (frame[IP_AT]! >> 4 !== 6) return undefined;
  const packetLength = 40 + frame.readUInt16BE(IP_AT + 4);
  let fragment: Reading['fragment'];
  let extended = false;
  let next = frame[IP_AT + 6]!;
  let at = IP_AT + 40;
  for (let walked = 0; next !== PROTOCOL.UDP; walked++) {
    if (walked === LONGEST_CHAIN || !Object.values<number>(EXTENSION).includes(next)) return undefined;
    if (at + 8 > frame.length) return undefined;
    const type = next;
    next = frame[at]!;
    if (type !== EXTENSION.fragment) {
      extended = true;
      at += 8 + 8 * frame[at + 1]!;
      continue;
    }
    const word = frame.readUInt16BE(at + 2);
    const part = word >> 3 ? 'later' : word & 1 ? 'first' : undefined;
    fragment = part && { id: frame.readUInt32BE(at + 4), part };
    at += 8;
    // What follows belongs to the datagram, and in its later parts to the middle of it, whatever it looks like.
    if (part && next !== PROTOCOL.UDP) return undefined;
    if (part) break;
  }
  return {
    family: 6,
    src: ipText(frame.subarray(IP_AT + 8, IP_AT + 24)),
    dst: ipText(frame.subarray(IP_AT + 24, IP_AT + 40)),
    ttl: frame[IP_AT + 7]!,
    packetLength,
    extended,
    intact: true,
    fragment,
    dstAt: IP_AT + 24,
    ttlAt: IP_AT + 7,
    body: at,
    end: IP_AT + packetLength,
    truthful: IP_AT + packetLength <= frame.length,
  };
}
