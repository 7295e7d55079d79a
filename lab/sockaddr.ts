/** Socket addresses as text (`10.0.0.9:40000`, `[fd00::1]:53`) and as the kernel's sockaddr bytes. */
import { formatAddress, ipBytes, ipText, parseIp, type SocketAddress } from '../agent/address.ts';
import { AF } from './libc.ts';

/** Parses `ip:port`, `[ipv6]:port` or a bare IP (port 0); throws on anything else. */
export function parseAddress(text: string): SocketAddress {
  const bare = parseIp(text);
  if (bare) return { ...bare, port: 0 };
  const [, bracketed, plain, port] = /^(?:\[(.+)\]|([^:]+)):(\d+)$/.exec(text) ?? [];
  const ip = parseIp(bracketed ?? plain ?? '');
  if (!ip) throw new Error(`address "${text}": want ip:port or [ipv6]:port`);
  return { ...ip, port: Number(port) };
}

/** `ip:port` with brackets where IPv6 wants them. */
export function addressText(ip: string, port: number): string {
  return formatAddress({ family: ip.includes(':') ? 6 : 4, ip, port });
}

/** struct sockaddr_in or sockaddr_in6 (netinet/in.h). */
export function encodeSockaddr({ family, ip, port }: SocketAddress): Buffer {
  const bytes = Buffer.alloc(family === 4 ? 16 : 28);
  bytes.writeUInt16LE(family === 4 ? AF.INET : AF.INET6, 0);
  bytes.writeUInt16BE(port, 2);
  bytes.set(ipBytes(family, ip).subarray(0, family === 4 ? 4 : 16), family === 4 ? 4 : 8);
  return bytes;
}

/** The inverse of `encodeSockaddr`. */
export function decodeSockaddr(bytes: Buffer): SocketAddress {
  const port = bytes.readUInt16BE(2);
  if (bytes.readUInt16LE(0) === AF.INET) return { family: 4, ip: ipText(bytes.subarray(4, 8)), port };
  return { family: 6, ip: ipText(bytes.subarray(8, 24)), port };
}

/** struct sockaddr_ll (linux/if_packet.h): every protocol on one interface. */
export function encodeLinkAddress(ifindex: number): Buffer {
  const ETH_P_ALL = 3;
  const bytes = Buffer.alloc(20);
  bytes.writeUInt16LE(AF.PACKET, 0);
  bytes.writeUInt16BE(ETH_P_ALL, 2);
  bytes.writeInt32LE(ifindex, 4);
  return bytes;
}
