/** The Internet checksum (RFC 1071), for what is sent one packet at a time. */

/** The sum of the 16-bit words in network order, on top of `sum`; an odd last byte is the upper half of a word. */
export function sumWords(bytes: Uint8Array, sum = 0): number {
  let total = sum;
  for (let at = 0; at < bytes.length; at += 2) total += (bytes[at]! << 8) | (bytes[at + 1] ?? 0);
  return total;
}

/** A sum as 16 bits, the carries added (RFC 1071, section 2). */
export function folded(sum: number): number {
  let rest = sum;
  while (rest > 0xffff) rest = (rest & 0xffff) + Math.floor(rest / 0x10000);
  return rest;
}

/** The checksum of a sum. */
export function checksum(sum: number): number {
  return ~folded(sum) & 0xffff;
}

/** A checksum after words that it covers were replaced: one that was wrong stays wrong by as much (RFC 1624, section 3). */
export function checksumReplaced(check: number, from: Uint8Array, to: Uint8Array): number {
  const removed = 0xffff * (from.length / 2) - sumWords(from);
  return checksum((~check & 0xffff) + removed + sumWords(to));
}
