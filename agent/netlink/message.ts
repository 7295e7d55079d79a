/** Netlink messages and attributes as bytes (linux/netlink.h, linux/rtnetlink.h). Pure, and strict about every length. */
import { endianness } from 'node:os';
import { cString } from '../ffi/c-string.ts';

/** Netlink speaks host byte order: little on x64 and arm64, the only machines that we ship for. */
export const LITTLE_ENDIAN = endianness() === 'LE';

const MESSAGE_HEADER = 16;
const ATTRIBUTE_HEADER = 4;
const ATTRIBUTE_TYPE_MASK = 0x3fff; // NLA_TYPE_MASK: without NLA_F_NESTED and NLA_F_NET_BYTEORDER
const ATTRIBUTE_VALUE_MAX = 0xffff - ATTRIBUTE_HEADER;

/** One message (struct nlmsghdr); `payload` is what follows the header, without padding. */
export interface Message {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly payload: Uint8Array;
}

/** A message as the kernel wants it; the port id is left 0, the kernel fills it in. */
export function encodeMessage({ type, flags, sequence, payload }: Message): Uint8Array {
  const bytes = new Uint8Array(MESSAGE_HEADER + payload.length);
  const header = dataView(bytes);
  header.setUint32(0, bytes.length, LITTLE_ENDIAN);
  header.setUint16(4, type, LITTLE_ENDIAN);
  header.setUint16(6, flags, LITTLE_ENDIAN);
  header.setUint32(8, sequence, LITTLE_ENDIAN);
  bytes.set(payload, MESSAGE_HEADER);
  return bytes;
}

/** The messages of one received datagram; their payloads are views into `bytes`. */
export function decodeMessages(bytes: Uint8Array): Message[] {
  const messages: Message[] = [];
  const view = dataView(bytes);
  for (let offset = 0; offset < bytes.length; ) {
    const room = bytes.length - offset;
    if (room < MESSAGE_HEADER) throw new Error(`${room} bytes are left, a message has at least 16`);
    const length = view.getUint32(offset, LITTLE_ENDIAN);
    // Not less than a header: a length of 0 would keep us here for ever.
    if (length < MESSAGE_HEADER || length > room) {
      throw new Error(`message length ${length}: want ${MESSAGE_HEADER} to ${room}`);
    }
    messages.push({
      type: view.getUint16(offset + 4, LITTLE_ENDIAN),
      flags: view.getUint16(offset + 6, LITTLE_ENDIAN),
      sequence: view.getUint32(offset + 8, LITTLE_ENDIAN),
      payload: bytes.subarray(offset + MESSAGE_HEADER, offset + length),
    });
    offset += aligned(length);
  }
  return messages;
}

/** One attribute (struct nlattr) and its padding; put several side by side with `joined`, nest by using it as value. */
export function attribute(type: number, value: Uint8Array): Uint8Array {
  if (value.length > ATTRIBUTE_VALUE_MAX) {
    throw new RangeError(`netlink attribute ${type}: ${value.length} bytes, at most ${ATTRIBUTE_VALUE_MAX} fit`);
  }
  const bytes = new Uint8Array(aligned(ATTRIBUTE_HEADER + value.length));
  const header = dataView(bytes);
  header.setUint16(0, ATTRIBUTE_HEADER + value.length, LITTLE_ENDIAN);
  header.setUint16(2, type, LITTLE_ENDIAN);
  bytes.set(value, ATTRIBUTE_HEADER);
  return bytes;
}

/** A 32-bit number in host byte order, the value of most attributes. */
export function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  dataView(bytes).setUint32(0, value, LITTLE_ENDIAN);
  return bytes;
}

/** The parts one after the other: a fixed header, then attributes. */
export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

/** Splits a payload into its fixed header (struct ifinfomsg, rtmsg, tcmsg, …) of `size` bytes and its attributes. */
export function decodePayload(payload: Uint8Array, size: number): { header: DataView; attributes: Attributes } {
  if (payload.length < size) throw new Error(`payload of ${payload.length} bytes: want at least ${size}`);
  return {
    header: dataView(payload.subarray(0, size)),
    attributes: new Attributes(payload.subarray(aligned(size))),
  };
}

/** A list of attributes by type. An absent one is undefined, one too short for what is asked is a format error. */
export class Attributes {
  readonly #values = new Map<number, Uint8Array[]>();

  /** Decodes all of `bytes`; the values are views into it. */
  constructor(bytes: Uint8Array) {
    const view = dataView(bytes);
    for (let offset = 0; offset < bytes.length; ) {
      const room = bytes.length - offset;
      if (room < ATTRIBUTE_HEADER) throw new Error(`${room} bytes are left, an attribute has at least 4`);
      const length = view.getUint16(offset, LITTLE_ENDIAN);
      if (length < ATTRIBUTE_HEADER || length > room) {
        throw new Error(`attribute length ${length}: want ${ATTRIBUTE_HEADER} to ${room}`);
      }
      const type = view.getUint16(offset + 2, LITTLE_ENDIAN) & ATTRIBUTE_TYPE_MASK;
      const value = bytes.subarray(offset + ATTRIBUTE_HEADER, offset + length);
      const same = this.#values.get(type);
      if (same === undefined) this.#values.set(type, [value]);
      else same.push(value);
      offset += aligned(length);
    }
  }

  /** Every value of a type that may repeat, in order. */
  all(type: number): readonly Uint8Array[] {
    return this.#values.get(type) ?? [];
  }

  /** The value as it is. */
  bytes(type: number): Uint8Array | undefined {
    return this.#values.get(type)?.[0];
  }

  /** The value as a 32-bit number in host byte order. */
  u32(type: number): number | undefined {
    return this.#view(type, 4)?.getUint32(0, LITTLE_ENDIAN);
  }

  /** The start of the value as a 16-bit number in host byte order. */
  u16(type: number): number | undefined {
    return this.#view(type, 2)?.getUint16(0, LITTLE_ENDIAN);
  }

  /** The value as a 16-bit number in network byte order, as UDP ports are given. */
  u16be(type: number): number | undefined {
    return this.#view(type, 2)?.getUint16(0);
  }

  /** The value as text, up to its NUL. */
  text(type: number): string | undefined {
    const value = this.bytes(type);
    return value && cString(value);
  }

  /** The attributes within; none when the type is absent. */
  nested(type: number): Attributes {
    return new Attributes(this.bytes(type) ?? new Uint8Array(0));
  }

  #view(type: number, size: number): DataView | undefined {
    const value = this.bytes(type);
    if (value !== undefined && value.length < size) {
      throw new Error(`attribute ${type} has ${value.length} bytes: want ${size}`);
    }
    return value && dataView(value);
  }
}

function dataView(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function aligned(length: number): number {
  return (length + 3) & ~3;
}
