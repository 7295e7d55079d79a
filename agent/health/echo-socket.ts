/** Raw ICMP sockets (raw(7), icmp(7), ipv6(7)) by the raw-socket package, loaded only where the config asks for ICMP. */
import type { Family } from '../address.ts';
import { missingCapabilities } from '../capabilities.ts';
import { ECHO } from './echo.ts';
import { ProberUnavailable } from './prober.ts';

export interface EchoSocket {
  /** Sends one packet; `failed` is told why it did not leave. */
  send(packet: Buffer, ip: string, failed: (error: Error) => void): void;
  close(): void;
}

/** Throws where the system refuses. `onPacket` must be done with the packet when it returns. */
export type OpenEchoSocket = (family: Family, onPacket: (packet: Buffer, source: string) => void) => EchoSocket;

/** Longest IPv4 header, ICMP header and token, with room to see that a reply is too long. */
const BUFFER_BYTES = 256;
/** SOL_RAW and ICMP_FILTER (linux/icmp.h); IPPROTO_ICMPV6 and ICMPV6_FILTER (linux/icmpv6.h). */
const FILTER = { 4: { level: 255, option: 1, bytes: 4 }, 6: { level: 58, option: 1, bytes: 32 } } as const;

/** Loads the native module; throws ProberUnavailable where it was not built for this Node. */
export async function loadRawSocket(): Promise<OpenEchoSocket> {
  const { default: raw } = await import('raw-socket').catch((cause: Error) => {
    const message = `raw-socket cannot be loaded (${cause.message.split('\n')[0]}): run npm run setup`;
    throw new ProberUnavailable(message, { cause });
  });
  const { AddressFamily, Protocol } = raw;
  const options = {
    4: { addressFamily: AddressFamily.IPv4, protocol: Protocol.ICMP, bufferSize: BUFFER_BYTES },
    6: { addressFamily: AddressFamily.IPv6, protocol: Protocol.ICMPv6, bufferSize: BUFFER_BYTES },
  };
  return (family, onPacket) => {
    let wanted = true;
    const open = () => {
      const opened = raw.createSocket(options[family]);
      const { level, option, bytes } = FILTER[family];
      opened.setOption(level, option, allBut(ECHO[family].reply, bytes), bytes);
      opened.on('message', onPacket);
      // A failed receive; the probe that it may have cost goes unanswered and is repeated.
      opened.on('error', () => {});
      // After an error of its poll handle the package closes the socket by itself.
      opened.on('close', () => (socket = undefined));
      return opened;
    };
    let socket: ReturnType<typeof open> | undefined = open();
    return {
      send: (packet, ip, failed) => {
        if (!wanted) return;
        try {
          socket ??= open();
          socket.send(packet, 0, packet.length, ip, (error) => error && failed(error));
        } catch (error) {
          failed(error as Error);
        }
      },
      close: () => {
        wanted = false;
        socket?.close();
      },
    };
  };
}

/** Why no socket could be opened, and what mends it. */
export function rawSocketFailure(error: Error): ProberUnavailable {
  const [missing] = missingCapabilities(['NET_RAW']);
  const message = missing
    ? `permission denied: missing capability ${missing}: add it under securityContext.capabilities.add (k8s/daemonset.yaml)`
    : `raw socket: ${error.message}`;
  return new ProberUnavailable(message, { cause: error });
}

/** A filter of ICMP types: a set bit keeps the type away from us, so that a busy host's other ICMP costs nothing. */
function allBut(type: number, bytes: number): Buffer {
  const words = new Uint32Array(bytes / 4).fill(0xffffffff);
  words[type >> 5]! &= ~(1 << (type & 31));
  return Buffer.from(words.buffer);
}
