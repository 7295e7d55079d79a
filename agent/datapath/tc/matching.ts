/** Which datagrams are a listener's, as the program's maps say it: pure, from the blueprint. */
import { type Family, type IpAddress, ipBytes, isWildcard } from '../../address.ts';
import { familiesOf } from '../../model.ts';
import type { Blueprint, ListenerBlueprint } from '../datapath.ts';
import { CONSTANTS, encodeAddressKey, encodeBind, encodeBindKey, encodePeerKey, encodeU32 } from './abi.ts';

type Entry = readonly [key: Uint8Array, value: Uint8Array];

/** ADDRESSES: the node's own, and those that listeners bind. */
export function* wantedAddresses({ addresses, listeners }: Blueprint): Generator<Entry> {
  const flags = new Map<string, { key: Uint8Array; value: number }>();
  const add = (address: IpAddress, flag: number) => {
    const entry = flags.get(address.ip) ?? { key: encodeAddressKey(address), value: 0 };
    flags.set(address.ip, { ...entry, value: entry.value | flag });
  };
  for (const address of addresses) add(address, CONSTANTS.ADDRESS_LOCAL);
  for (const { listener } of listeners) if (!isWildcard(listener.bind)) add(listener.bind, CONSTANTS.ADDRESS_BOUND);
  for (const { key, value } of flags.values()) yield [key, encodeU32(value)];
}

/**
 * BINDS: each listener on each of its interfaces, by its row. `[::]` takes IPv4 too, but where another listener binds
 * 0.0.0.0 and the same port, that one is the more specific: such entries come last and win.
 */
export function* wantedBinds(
  ready: readonly ListenerBlueprint[],
  rowOf: (listener: ListenerBlueprint) => number,
  isHost: (ip: string) => boolean,
): Generator<Entry> {
  const dualStackFirst = [...ready].sort((a, b) => familiesOf(b.listener).length - familiesOf(a.listener).length);
  for (const one of dualStackFirst) {
    for (const family of familiesOf(one.listener)) {
      const flags = sharers(one, family, isHost).here.length > 0 ? CONSTANTS.BIND_SHARED : 0;
      for (const key of bindKeys(one, family)) yield [key, encodeBind(rowOf(one), family, flags)];
    }
  }
}

/** A host on a link, as the kernel knows it. */
export interface OnLink {
  readonly ifindex: number;
  readonly mac: string;
}

/** PEERS: for each downstream here with its wildcard's own port, all other hosts on the listener's links that have one. */
export function* wantedPeers(
  ready: readonly ListenerBlueprint[],
  isHost: (ip: string) => boolean,
  onLink: (address: IpAddress) => OnLink | undefined,
): Generator<Entry> {
  for (const one of ready) {
    for (const family of familiesOf(one.listener)) {
      const { here, elsewhere } = sharers(one, family, isHost);
      if (here.length === 0) continue;
      for (const address of elsewhere) {
        const host = onLink(address);
        if (!host || !one.interfaces.some(({ index }) => index === host.ifindex)) continue;
        const value = ipBytes(family, address.ip);
        for (const receiver of here) yield [encodePeerKey(receiver, host.ifindex, host.mac), value];
      }
    }
  }
}

/** The downstreams of one family that have their wildcard listener's own port, so that a datagram for them is one for it. */
function sharers({ listener: { bind }, tables }: ListenerBlueprint, family: Family, isHost: (ip: string) => boolean) {
  const slots = isWildcard(bind) ? (tables.find((table) => table.family === family)?.slots ?? []) : [];
  const shared = slots.map(({ address }) => address).filter(({ port }) => port === bind.port);
  const distinct = [...new Map(shared.map((address) => [address.ip, address])).values()];
  return {
    here: distinct.filter(({ ip }) => isHost(ip)),
    elsewhere: distinct.filter(({ ip }) => !isHost(ip)),
  };
}

/** The listener's keys of BINDS. */
export function bindKeys({ listener, interfaces }: ListenerBlueprint, family: 4 | 6): Uint8Array[] {
  return interfaces.map(({ index }) => encodeBindKey(listener.bind, family, index));
}

/** The program's flags by port; a port may stand there more than once. */
export function wantedPorts(bound: readonly ListenerBlueprint[]): readonly (readonly [port: number, flag: number])[] {
  return bound.map(({ listener: { bind } }) => {
    return [bind.port, isWildcard(bind) ? CONSTANTS.PORT_WILDCARD : CONSTANTS.PORT_SPECIFIC];
  });
}
