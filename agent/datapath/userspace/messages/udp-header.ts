/**
 * UDP headers of our own, for a raw socket that sends from any source (raw(7), without IP_HDRINCL: a header of IP's own
 * would cost the kernel a new route entry for each datagram). The source address goes with the message as IP_PKTINFO.
 */
import type { Memory } from '../../../ffi/mmsg.ts';

const IPPROTO_UDP = 17;
/** Bytes of a UDP header (RFC 768). */
export const UDP_HEADER = 8;

/** Who sends to whom: addresses as words in network order, ports in network order as the machine reads them. */
export interface Ends {
  /** As ReceiveBatch.source has it. */
  source: Uint32Array;
  sourceAt: number;
  /** The words of the target's address, and where they begin. */
  target: Uint32Array;
  targetAt: number;
  targetPort: number;
}

/** Writes the header of one datagram at `at`, an even offset, for the payload of `length` bytes at `payloadAt`. */
export function writeUdpHeader(
  memory: Memory,
  at: number,
  { source, sourceAt, target, targetAt, targetPort }: Ends,
  payload: Memory,
  payloadAt: number,
  length: number,
): void {
  const sourcePort = source[sourceAt]! >>> 16;
  const size = swap(UDP_HEADER + length);
  // The pseudo-header (RFC 768; RFC 8200, section 8.1) has the length once more, and the protocol as a word of its own.
  let sum = sourcePort + targetPort + 2 * size + swap(IPPROTO_UDP) + sumPayload(payload, payloadAt, length);
  const words = (source[sourceAt]! & 0xf) === 4 ? 1 : 4;
  for (let word = 0; word < words; word++) {
    const from = source[sourceAt + 1 + word]!;
    const to = target[targetAt + word]!;
    sum += (from & 0xffff) + (from >>> 16) + (to & 0xffff) + (to >>> 16);
  }
  const header = at >> 1;
  memory.u16[header] = sourcePort;
  memory.u16[header + 1] = targetPort;
  memory.u16[header + 2] = size;
  memory.u16[header + 3] = checksum(sum);
}

/**
 * Sum of the 16-bit words in the machine's order, which is as good as any (RFC 1071, section 2, B). Two of them are read
 * at a time and added as whole numbers of 32 bits, which V8 does without doubles.
 */
function sumPayload({ u32, bytes }: Memory, at: number, length: number): number {
  const end = at + length;
  let sum = 0;
  let i = at;
  if ((at & 3) === 0) {
    for (const last = end - 3; i < last; i += 4) {
      const word = u32[i >> 2]! | 0;
      sum += (word & 0xffff) + (word >>> 16);
    }
  }
  // The rest; all of it where a datagram that was cut from a larger message begins anywhere.
  for (const last = end - 1; i < last; i += 2) sum += bytes[i]! | (bytes[i + 1]! << 8);
  return i < end ? sum + bytes[i]! : sum;
}

/** The checksum of a sum; never 0, which would say that there is none. */
function checksum(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + (folded >>> 16);
  return folded === 0xffff ? 0xffff : ~folded & 0xffff;
}

function swap(value: number): number {
  return ((value & 0xff) << 8) | (value >> 8);
}
