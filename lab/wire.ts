/** The wire itself: puts raw frames onto an interface and captures those that pass it, through packet sockets. */
import { closeSync } from 'node:fs';
import { type Dissected, dissect } from './dissect.ts';
import { ETHER } from './ip.ts';
import * as libc from './libc.ts';
import { type Message, MessageBatch } from './messages.ts';
import type { Namespace } from './namespace.ts';
import { until } from './patience.ts';
import { encodeLinkAddress } from './sockaddr.ts';

/** A frame that passed an interface. */
export interface Captured extends Dissected {
  /** As the interface's host sees it. */
  readonly direction: 'in' | 'out';
  readonly bytes: Buffer;
}

/** Frames since its start wait in the kernel, so that none is missed while the test does something else. */
export interface Capture extends Disposable {
  /**
   * The frames that passed since the last call. Waits until there are at least `expect` of them, and throws if that
   * takes longer than `limit` ms of an ordinary machine (1000).
   */
  frames(options?: { readonly expect?: number; readonly limit?: number }): Promise<Captured[]>;
  close(): void;
}

/** Sends frames out of an interface, so that its peer receives them; all on one CPU if one is named. Throws with errno. */
export function inject(namespace: Namespace, name: string, frames: readonly Buffer[], cpu?: number): void {
  if (frames.length === 0) throw new Error(`frames on ${name}: none were given`);
  namespace.inside(() => {
    const fd = libc.socket(libc.AF.PACKET, libc.SOCK.RAW);
    try {
      const address = encodeLinkAddress(libc.interfaceIndex(name));
      libc.onCpu(cpu, () => {
        for (const frame of frames) {
          const errno = libc.sendTo(fd, frame, frame.length, address);
          if (errno !== 0) throw new Error(`frame of ${frame.length} bytes on ${name}: ${libc.errnoName(errno)}`);
        }
      });
    } finally {
      closeSync(fd);
    }
  });
}

/** Captures what passes an interface and `filter` lets through. */
export function capture(
  namespace: Namespace,
  name: string,
  filter: (frame: Dissected) => boolean = () => true,
): Capture {
  const fd = namespace.inside(() => openTap(name));
  const batch = new MessageBatch(8);
  const drain = () => {
    const captured: Captured[] = [];
    const take = (message: Message) => {
      const frame = readFrame(message.data, message.name, message.control);
      if (filter(frame)) captured.push(frame);
    };
    while (batch.receive(fd, take) > 0);
    return captured;
  };
  const close = () => closeSync(fd);
  return {
    frames: async ({ expect = 0, limit = 1000 } = {}) => {
      const captured = drain();
      const enough = () => captured.push(...drain()) >= expect;
      await until(`${expect} frames on ${name} in ${namespace.role}`, enough, { limit, every: 5 }).catch((error) => {
        throw new Error(`${error.message}, but ${captured.length}`);
      });
      return captured;
    },
    close,
    [Symbol.dispose]: close,
  };
}

function openTap(name: string): number {
  const fd = libc.socket(libc.AF.PACKET, libc.SOCK.RAW | libc.SOCK.NONBLOCK);
  libc.setOption(fd, libc.SOL.SOCKET, libc.SO.RCVBUFFORCE, 64 << 20);
  libc.setOption(fd, libc.SOL.PACKET, libc.PACKET_AUXDATA, 1);
  // Bound to no protocol the socket hears nothing until here, so that no other interface's frame slips in.
  libc.bind(fd, encodeLinkAddress(libc.interfaceIndex(name)));
  return fd;
}

function readFrame(data: Buffer, linkAddress: Buffer, auxiliary: Buffer): Captured {
  const PACKET_OUTGOING = 4;
  const bytes = withTag(data, auxiliary);
  return { ...dissect(bytes), direction: linkAddress.readUInt8(10) === PACKET_OUTGOING ? 'out' : 'in', bytes };
}

/** The kernel moves a received VLAN tag out of the frame (struct tpacket_auxdata); this puts it back. */
function withTag(data: Buffer, auxiliary: Buffer): Buffer {
  const TP_STATUS_VLAN_VALID = 1 << 4;
  const valid = auxiliary.length >= 18 && (auxiliary.readUInt32LE(0) & TP_STATUS_VLAN_VALID) !== 0;
  if (!valid) return Buffer.from(data);
  const tag = Buffer.alloc(4);
  tag.writeUInt16BE(ETHER.VLAN, 0);
  tag.writeUInt16BE(auxiliary.readUInt16LE(16), 2);
  return Buffer.concat([data.subarray(0, 12), tag, data.subarray(12)]);
}
