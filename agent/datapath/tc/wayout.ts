/**
 * Where ip_forward is 0 the FIB refuses every look-up, yet the kernel still sends what it is told to send out of a known
 * interface. So for such nodes, and only for them, the agent asks the routing table itself.
 */
import { readFileSync } from 'node:fs';
import type { Family, SocketAddress } from '../../address.ts';
import type { Host } from '../../netlink/host.ts';
import type { Interface } from '../datapath.ts';
import type { WayOut } from './abi.ts';

/** The way towards `address` if one of `interfaces` does not forward its family, and there is one. */
export function wayOut(host: Host, address: SocketAddress, interfaces: readonly Interface[]): WayOut | undefined {
  if (interfaces.every(({ name }) => forwards(address.family, name))) return undefined;
  const route = host.route(address);
  const link = route && host.links().find(({ index }) => index === route.ifindex);
  return link && { ifindex: link.index, mtu: Math.min(link.mtu, route.mtu ?? link.mtu) };
}

/** net.ipv4.conf.NAME.forwarding; true where it cannot be read, since the FIB decides in the end. */
function forwards(family: Family, name: string): boolean {
  try {
    return readFileSync(`/proc/sys/net/ipv${family}/conf/${name}/forwarding`, 'utf8').trim() !== '0';
  } catch {
    return true;
  }
}
