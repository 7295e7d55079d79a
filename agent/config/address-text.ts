/** Reads "IP:port" as people write it, and says what to write instead where it is not one. */
import { type IpAddress, ipBytes, isWildcard, parseIp, type SocketAddress } from '../address.ts';
import { quote } from './position.ts';

export const WANT_ADDRESS = 'want "IP:port" such as "10.0.1.10:5514" or "[fd00::1]:5514"';

/** The socket address in `text`, port 1 to 65535; or, as text, what is wrong with it and what is wanted. */
export function readAddress(text: string): SocketAddress | string {
  if (text === '') return `is empty, ${WANT_ADDRESS}`;
  if (/[\s\p{Cc}]/u.test(text)) return `has a space or control character in it, ${WANT_ADDRESS}`;
  const scheme = /^[a-z][a-z0-9+.-]*:\/\//i.exec(text)?.[0];
  if (scheme !== undefined) return `starts with ${quote(scheme)}, ${WANT_ADDRESS}`;
  const [, inside, rest] = /^\[([^\]]*)\](.*)$/.exec(text) ?? [];
  if (inside !== undefined && rest !== undefined) return readBracketed(inside, rest);
  const colon = text.lastIndexOf(':');
  if (colon < 0) return explainMissingColon(text);
  const host = text.slice(0, colon);
  if (host.includes(':')) return explainBareIpv6(text, host);
  const ip = parseIp(host);
  return ip === undefined ? explainHost(host, text.slice(colon + 1)) : withPort(ip, text.slice(colon + 1));
}

/** Why no socket can be bound to the address or a listener have it; undefined if one can. */
export function refuseBind(address: SocketAddress): string | undefined {
  return refuseGroup(address);
}

/** Why no datagram can be sent to exactly one receiver at the address; undefined if one can. */
export function refuseDownstream(address: SocketAddress): string | undefined {
  if (isWildcard(address)) return 'is the wildcard address, want the address of one receiver';
  if (isLinkLocal(address)) return 'is link-local and says no interface, want an address that is routed';
  return refuseGroup(address);
}

function refuseGroup(address: SocketAddress): string | undefined {
  if (address.ip === '255.255.255.255') return 'is the broadcast address, want a unicast address';
  const [first = 0] = ipBytes(address.family, address.ip);
  const multicast = address.family === 4 ? first >= 224 && first <= 239 : first === 0xff;
  return multicast ? 'is a multicast address, want a unicast address' : undefined;
}

/** fe80::/10 (RFC 4291); IPv4's 169.254.0.0/16 needs no zone. */
function isLinkLocal({ family, ip }: SocketAddress): boolean {
  const [first = 0, second = 0] = ipBytes(family, ip);
  return family === 6 && first === 0xfe && (second & 0xc0) === 0x80;
}

function readBracketed(inside: string, rest: string): SocketAddress | string {
  if (inside.includes('%')) return refuseZone(inside);
  const ip = parseIp(inside);
  if (ip === undefined) return `${quote(inside)} is not an IPv6 address, ${WANT_ADDRESS}`;
  const port = /^:\d+$/.test(rest) ? rest.slice(1) : 'PORT';
  if (ip.family === 4) return `brackets are for IPv6 only, want "${ip.ip}:${port}"`;
  if (rest === '') return `the port is missing, want it after the brackets: "[${ip.ip}]:PORT"`;
  if (!rest.startsWith(':')) return `${quote(rest)} after the brackets is not ":port", ${WANT_ADDRESS}`;
  return withPort(ip, rest.slice(1));
}

function withPort({ family, ip }: IpAddress, text: string): SocketAddress | string {
  if (text === '') return 'the port is missing after ":", want 1 to 65535';
  if (!/^(0|[1-9]\d*)$/.test(text)) return `port ${quote(text)} is not a number, want 1 to 65535`;
  const port = Number(text);
  if (port < 1 || port > 65535) return `port ${text.slice(0, 20)} is not usable, want 1 to 65535`;
  const bytes = ipBytes(family, ip);
  // ::ffff:0:0/96 never stands in a packet's header (RFC 4291, 2.5.5.2).
  const mapped =
    family === 6 && bytes.subarray(0, 10).every((byte) => byte === 0) && bytes[10] === 0xff && bytes[11] === 0xff;
  if (mapped) return `is IPv4 written as IPv6, want "${bytes.subarray(12).join('.')}:${port}"`;
  return { family, ip, port };
}

function explainMissingColon(text: string): string {
  if (/^\d+$/.test(text))
    return `the address is missing, want it before the port: "0.0.0.0:${text}" takes every IPv4 address`;
  if (parseIp(text) !== undefined) return `the port is missing, want "${text}:PORT" with a port from 1 to 65535`;
  return `the port is missing, ${WANT_ADDRESS}`;
}

/** `fd00::1:5514` is itself an IPv6 address, so only brackets tell where the port starts. */
function explainBareIpv6(text: string, host: string): string {
  if (text.includes('%')) return refuseZone(text);
  const port = text.slice(host.length + 1);
  const address = parseIp(host);
  if (address?.family === 6 && /^\d{1,5}$/.test(port)) return `IPv6 without brackets, want "[${address.ip}]:${port}"`;
  const whole = parseIp(text);
  if (whole !== undefined) return `IPv6 without brackets and port, want "[${whole.ip}]:PORT"`;
  return `more than one ":", ${WANT_ADDRESS}`;
}

function explainHost(host: string, port: string): string {
  const wildcard = `want "0.0.0.0:${port}" for every IPv4 address or "[::]:${port}" for IPv6 too`;
  if (!/^\d{1,5}$/.test(port)) return `${quote(host)} is not an IP address, ${WANT_ADDRESS}`;
  if (host === '') return `the address is missing, ${wildcard}`;
  if (host === '*') return `"*" is not an address, ${wildcard}`;
  if (host.includes('%')) return refuseZone(host);
  if (host.includes('/')) return `${quote(host)} is a network, want one IP address`;
  if (/^[\d.]+$/.test(host))
    return `${quote(host)} is not an IPv4 address, want four numbers from 0 to 255 without leading zeros`;
  return `${quote(host)} is a host name and names are not looked up, ${WANT_ADDRESS}`;
}

function refuseZone(host: string): string {
  return `${quote(host.slice(host.indexOf('%')))} is a zone id and none is taken, want a routed address and the interface under "interface"`;
}
