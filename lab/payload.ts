/**
 * The payload of a numbered datagram: magic, stream, sequence number and size, each 32 bits in network order, then a
 * pattern up to the size. Senders and raw frames write it, receivers verify every byte.
 */
export const PAYLOAD_HEADER = 16;
const MAGIC = 0x75_66_61_6e;
const PATTERN = Buffer.from(Uint8Array.from({ length: 65536 + 256 }, (_, index) => index));

export interface Numbered {
  readonly stream: number;
  readonly sequence: number;
}

/** Fills `size` bytes of `target` from `offset` with the payload of one numbered datagram; at least 16 bytes. */
export function writePayload(target: Buffer, { stream, sequence }: Numbered, offset = 0, size = target.length): void {
  if (size < PAYLOAD_HEADER) throw new Error(`payload size ${size}: a numbered datagram needs ${PAYLOAD_HEADER} bytes`);
  target.writeUInt32BE(MAGIC, offset);
  target.writeUInt32BE(stream, offset + 4);
  target.writeUInt32BE(sequence, offset + 8);
  target.writeUInt32BE(size, offset + 12);
  const start = sequence & 0xff;
  PATTERN.copy(target, offset + PAYLOAD_HEADER, start, start + size - PAYLOAD_HEADER);
}

/** A new buffer of `size` bytes that holds one numbered datagram's payload. */
export function numberedPayload(numbered: Numbered, size = 64): Buffer {
  const payload = Buffer.alloc(size);
  writePayload(payload, numbered);
  return payload;
}

/** Reads a numbered datagram back; undefined if anything of it is not as it was written. */
export function readPayload(payload: Buffer): Numbered | undefined {
  const size = payload.length;
  if (size < PAYLOAD_HEADER || payload.readUInt32BE(0) !== MAGIC || payload.readUInt32BE(12) !== size) return undefined;
  const stream = payload.readUInt32BE(4);
  const sequence = payload.readUInt32BE(8);
  const start = sequence & 0xff;
  const intact = PATTERN.compare(payload, PAYLOAD_HEADER, size, start, start + size - PAYLOAD_HEADER) === 0;
  return intact ? { stream, sequence } : undefined;
}
