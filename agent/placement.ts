/** Which interfaces of this machine a listener can have: pure, from the links that there are. */
import type { Interface, Problem } from './datapath/datapath.ts';
import type { Listener } from './model.ts';
import { findLink, type Link } from './netlink/link.ts';

/** ARPHRD_ETHER and ARPHRD_LOOPBACK of linux/if_arp.h: what has an Ethernet header. */
const ETHERNET: readonly number[] = [1, 772];
const LISTED = 20;

/** The listener's interfaces that exist and can carry the program, and what is wrong with the others. */
export function placeListener(
  listener: Listener,
  links: readonly Link[],
): { interfaces: readonly Interface[]; problems: readonly Problem[] } {
  const overlay = links.find(({ udpPort }) => udpPort === listener.bind.port);
  if (overlay) {
    const message = `listener "${listener.name}": UDP port ${listener.bind.port} belongs to ${overlay.kind} interface "${overlay.name}", whose traffic it would take: choose another port`;
    return { interfaces: [], problems: [{ subject: `listener(${listener.name})`, message }] };
  }
  // The userspace datapath takes what reaches the host, by whatever interface.
  if (listener.mode === 'userspace') return { interfaces: [], problems: [] };
  const interfaces: Interface[] = [];
  const problems: Problem[] = [];
  for (const name of listener.interfaces) {
    const link = findLink(links, name);
    const message = link ? unfit(link) : `interface not found: ${name} (there are: ${listNames(links)})`;
    if (message !== undefined) problems.push({ subject: `attachment(${name})`, message });
    else if (link) interfaces.push({ index: link.index, name });
  }
  return { interfaces, problems };
}

function unfit({ name, type }: Link): string | undefined {
  if (ETHERNET.includes(type)) return undefined;
  return `interface "${name}" carries no Ethernet header (link type ${type}), which the kernel path needs: name an Ethernet interface`;
}

function listNames(links: readonly Link[]): string {
  const names = links.slice(0, LISTED).map(({ name }) => name);
  return links.length > LISTED ? `${names.join(', ')} and ${links.length - LISTED} more` : names.join(', ');
}
