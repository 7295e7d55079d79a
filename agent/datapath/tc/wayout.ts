/**
 * Where ip_forward is 0 the FIB refuses every look-up, yet the kernel still sends what it is told to send out of a known
 * interface. So for such nodes, and only for them, the agent asks the routing table itself.
 */
import { readFileSync } from 'node:fs';
import type { Family, SocketAddress } from '../../address.ts';
import type { Host } from '../../netlink/host.ts';
import type { Interface } from '../datapath.ts';

/** Index of the interface towards `address` if one of `interfaces` does not forward its family; else 0. */
export function wayOut(host: Host, address: SocketAddress, interfaces: readonly Interface[]): number {
  if (interfaces.every(({ name }) => forwards(address.family, name))) return 0;
  return host.route(address)?.ifindex ?? 0;
}

/** net.ipv4.conf.NAME.forwarding; true where it cannot be read, since the FIB decides in the end. */
function forwards(family: Family, name: string): boolean {
  try {
    return readFileSync(`/proc/sys/net/ipv${family}/conf/${name}/forwarding`, 'utf8').trim() !== '0';
  } catch {
    return true;
  }
}
