/** The listeners' addresses: are they this node's, a VIP's, or an overlay's. */
import { formatAddress, isWildcard } from '../address.ts';
import { familiesOf, type Listener } from '../model.ts';
import type { HostAddress } from '../netlink/address.ts';
import type { Link } from '../netlink/link.ts';
import { type Finding, fail, ok, warn } from './finding.ts';
import type { Requirements } from './requirements.ts';

export interface BindFacts {
  readonly links: readonly Link[];
  readonly addresses: readonly HostAddress[];
}

/** Of tunnels, by IANA and by Linux: what arrives there is the pods' traffic. */
const TUNNELS = new Map([
  [4789, 'VXLAN'],
  [8472, 'VXLAN'],
  [6081, 'Geneve'],
]);

export function bindFindings(facts: BindFacts, { listeners }: Requirements): Finding[] {
  return listeners.flatMap((listener) => {
    const what = `bind ${listener.name}`;
    const tunnel = overlay(what, listener, facts.links);
    return tunnel?.level === 'fail' ? [tunnel] : [...(tunnel ? [tunnel] : []), address(what, listener, facts)];
  });
}

function overlay(what: string, { bind, name }: Listener, links: readonly Link[]): Finding | undefined {
  const link = links.find(({ udpPort }) => udpPort === bind.port);
  if (link) {
    const means = `UDP port ${bind.port} belongs to ${link.kind} interface "${link.name}": listener "${name}" would take the pods' traffic and is refused`;
    return fail(what, means, 'choose another port');
  }
  const tunnel = TUNNELS.get(bind.port);
  if (tunnel === undefined) return undefined;
  const means = `UDP port ${bind.port} is ${tunnel}'s: no interface here uses it now, but a CNI may, and then loses its traffic`;
  return warn(what, means, 'choose another port');
}

function address(what: string, listener: Listener, { links, addresses }: BindFacts): Finding {
  const { bind } = listener;
  if (isWildcard(bind)) return wildcard(what, listener, addresses);
  const own = addresses.find(({ ip }) => ip === bind.ip);
  const nic = links.find(({ index }) => index === own?.ifindex);
  if (own) return ok(what, `${formatAddress(bind)} is an address of this node, on ${nic?.name ?? 'an interface'}`);
  return ok(
    what,
    `${formatAddress(bind)} is on no interface here, so it is taken for a VIP: somebody (MetalLB, Cilium, BGP) has to bring its datagrams to this node`,
  );
}

/** A wildcard is no VIP's: that is the mistake to be told of. */
function wildcard(what: string, listener: Listener, addresses: readonly HostAddress[]): Finding {
  const families = familiesOf(listener);
  const own = addresses.filter(({ family, ip }) => families.includes(family) && !/^(127\.|::1$|fe80:)/.test(ip));
  const bind = formatAddress(listener.bind);
  if (own.length === 0) {
    const means = `${bind} takes the node's own addresses, of which there are none of IPv${families.join(' or IPv')}`;
    return warn(what, means, 'give the node an address, or bind the address that the senders use');
  }
  const ips = [...new Set(own.map(({ ip }) => ip))];
  const some = `${ips.slice(0, 4).join(', ')}${ips.length > 4 ? ` and ${ips.length - 4} more` : ''}`;
  return ok(what, `${bind} takes datagrams to ${some}, and to no VIP: for a VIP bind its address`);
}
