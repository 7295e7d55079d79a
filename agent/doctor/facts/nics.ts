/** The interfaces worth a look, and their features. */
import type { HostAddress } from '../../netlink/address.ts';
import { ARPHRD_ETHER, findLink, type Link } from '../../netlink/link.ts';
import { interfaceNames, type Requirements } from '../requirements.ts';
import { readFeatures } from './features.ts';

/** What a listener's datagrams usually come in by: hardware, or what stands for it in a container or VLAN. */
const NIC_KINDS: readonly string[] = ['', 'veth', 'vlan', 'bond', 'macvlan'];

/** The interfaces that the config names; without a config, those that it could name: with an address that is routed. */
export function hookedLinks(
  { listeners }: Requirements,
  links: readonly Link[],
  addresses: readonly HostAddress[],
): Link[] {
  if (listeners.length === 0) {
    const routed = new Set(addresses.filter(({ ip }) => !ip.startsWith('fe80:')).map(({ ifindex }) => ifindex));
    return links.filter(({ index, type, up, kind }) => {
      return routed.has(index) && type === ARPHRD_ETHER && up && NIC_KINDS.includes(kind);
    });
  }
  const named = interfaceNames(listeners).map((name) => findLink(links, name));
  return named.filter((link) => link !== undefined);
}

/** The active features of those that tell them, by interface. */
export function featuresOf(nics: readonly Link[]): ReadonlyMap<string, ReadonlySet<string>> {
  const read = nics.map(({ name }) => [name, readFeatures(name)] as const);
  return new Map(read.filter((entry): entry is readonly [string, ReadonlySet<string>] => entry[1] !== undefined));
}
