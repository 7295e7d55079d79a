/** Downstreams on this host that a listener's socket would get in the way of, or that are the listener itself. */
import { type IpAddress, isLoopback, isWildcard, type SocketAddress } from '../../address.ts';
import type { SlotTable } from '../../model.ts';

export type IsHost = (ip: string) => boolean;

/** Tells whether an address is this host's own. */
export function isHostAddress(addresses: readonly IpAddress[]): IsHost {
  const own = new Set(addresses.map(({ ip }) => ip));
  return (ip) => own.has(ip) || isLoopback(ip);
}

/** The table without downstreams that are the listener itself, which would get its own datagrams for ever; and these. */
export function withoutLoops(
  bind: SocketAddress,
  table: SlotTable,
  isHost: IsHost,
): { readonly table: SlotTable; readonly loops: readonly SocketAddress[] } {
  const isLoop = ({ ip, port }: SocketAddress) =>
    port === bind.port && (isWildcard(bind) ? isHost(ip) : ip === bind.ip);
  const loops = table.slots.map(({ address }) => address).filter(isLoop);
  if (loops.length === 0) return { table, loops };
  return { table: { ...table, slots: table.slots.filter(({ address }) => !isLoop(address)) }, loops };
}

/** True if a downstream on this host needs the port that a socket of the listener would take. */
export function isOccupied(bind: SocketAddress, tables: Iterable<SlotTable>, isHost: IsHost): boolean {
  return [...tables].some(({ slots }) => slots.some(({ address }) => address.port === bind.port && isHost(address.ip)));
}
