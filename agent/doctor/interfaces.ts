/** The listeners' interfaces: there, up, of a kind that the kernel path can work on, and not merging datagrams. */
import { findLink, type Link } from '../netlink/link.ts';
import { placeListener } from '../placement.ts';
import { type Finding, fail, ok, warn } from './finding.ts';
import { interfaceNames, kernelListeners, type Requirements } from './requirements.ts';

export interface InterfaceFacts {
  readonly links: readonly Link[];
  /** NIC features that are on, by interface name; absent where they could not be read. */
  readonly features: ReadonlyMap<string, ReadonlySet<string>>;
}

/** Either makes one packet of datagrams that came together (linux/netdev_features.h). */
const MERGING = ['rx-udp-gro-forwarding', 'rx-gro-list'];

export function interfaceFindings(facts: InterfaceFacts, requirements: Requirements): Finding[] {
  return interfaceNames(requirements.listeners).flatMap((name) => {
    const unusable = placementFinding(name, facts, requirements);
    const link = findLink(facts.links, name);
    if (unusable || !link) return unusable ? [unusable] : [];
    return [state(name, link, facts.links), ...merging(name, facts.features.get(link.name))];
  });
}

/** What the agent itself would say of the interface; undefined if it can use it. */
function placementFinding(name: string, { links }: InterfaceFacts, { listeners }: Requirements): Finding | undefined {
  const users = kernelListeners(listeners).filter(({ interfaces }) => interfaces.includes(name));
  const places = users.map((listener) => ({ listener, ...placeListener(listener, links) }));
  const problem = places.flatMap(({ problems }) => problems).find(({ subject }) => subject === `attachment(${name})`);
  if (!problem) return undefined;
  // One that has another interface goes on, and one of mode auto falls back.
  const alone = places.filter(({ interfaces }) => interfaces.length === 0).map(({ listener }) => listener.mode);
  const lost = alone.includes('tc_ebpf');
  const finding = lost ? fail : warn;
  const who = users.map((listener) => `"${listener.name}"`).join(', ');
  const rest = lost ? 'and has no other' : alone.includes('auto') ? 'and falls back to userspace' : 'and has others';
  const mend = 'see `ip link` and correct the config; in a pod, hostNetwork: true';
  return finding(`interface ${name}`, `${problem.message}; listener ${who} names it ${rest}`, mend);
}

function state(name: string, link: Link, links: readonly Link[]): Finding {
  const what = `interface ${name}`;
  const master = links.find(({ index }) => index === link.master);
  if (!link.up) return warn(what, 'is down: nothing arrives', `ip link set ${name} up`);
  if (master?.kind === 'bridge') {
    const means = `is a port of bridge "${master.name}": frames to the bridge's MAC are not this port's own and pass by`;
    return warn(what, means, `name ${master.name} in its place`);
  }
  const kind = link.kind === '' ? 'Ethernet' : link.kind;
  const also = link.name === name ? '' : `, its proper name is ${link.name}`;
  return ok(what, `is there and up, ${kind}, MTU ${link.mtu}${also}`);
}

function merging(name: string, features: ReadonlySet<string> | undefined): Finding[] {
  const what = `NIC features ${name}`;
  if (!features) return [ok(what, 'cannot be read here; rx-udp-gro-forwarding and rx-gro-list should be off')];
  const on = MERGING.filter((feature) => features.has(feature));
  if (on.length === 0) return [ok(what, `${MERGING.join(' and ')} are off, so each datagram is spread by itself`)];
  const means = `${on.join(' and ')} on: datagrams of one sender that arrive together go to one downstream together`;
  return [warn(what, means, `ethtool -K ${name} ${on.map((feature) => `${feature} off`).join(' ')}`)];
}
