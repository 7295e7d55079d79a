/** The sysctls that decide whether datagrams leave this node, and whether their way back is believed. */
import { BOTH_FAMILIES, type Family } from '../address.ts';
import { DEFAULT_RECEIVE_BUFFER, familiesOf } from '../model.ts';
import { findLink, type Link } from '../netlink/link.ts';
import { type Finding, ok, warn } from './finding.ts';
import { interfaceNames, kernelListeners, type Requirements } from './requirements.ts';

export interface SysctlFacts {
  /** The value at a path below /proc/sys; undefined if it is not there. */
  readonly sysctl: (path: string) => string | undefined;
  readonly links: readonly Link[];
  /** Interfaces that lead to downstreams, by name. */
  readonly egress: readonly string[];
  /** Downstreams that are on a link of this host, each a neighbour, by family. */
  readonly neighbours: Readonly<Record<Family, number>>;
  /** May pass over rmem_max (NET_ADMIN). */
  readonly mayForceBuffers: boolean;
}

export function sysctlFindings(facts: SysctlFacts, requirements: Requirements): Finding[] {
  const names = interfaceNames(requirements.listeners).filter((name) => findLink(facts.links, name));
  return [
    ...names.flatMap((name) => forwarding(name, facts, requirements)),
    ...names.map((name) =>
      reversePath(name, facts, "what comes to the listener's socket is dropped if the sender's route back"),
    ),
    ...facts.egress
      .filter((name) => !names.includes(name) && name !== 'lo')
      .map((name) => reversePath(name, facts, 'what other nodes send to receivers here is dropped if its route back')),
    ...receiveBuffers(facts, requirements),
    ...BOTH_FAMILIES.flatMap((family) => neighbourTable(family, facts)),
  ];
}

function forwarding(name: string, { sysctl }: SysctlFacts, { listeners }: Requirements): Finding[] {
  const users = kernelListeners(listeners).filter(({ interfaces }) => interfaces.includes(name));
  const families = new Set(users.flatMap((listener) => familiesOf(listener)));
  const findings: Finding[] = [];
  for (const family of [...families].sort()) {
    const what = `forwarding IPv${family} ${name}`;
    const path = `net/ipv${family}/conf/${name}/forwarding`;
    const value = sysctl(path);
    if (value === undefined) continue;
    if (value !== '0') findings.push(ok(what, 'is on'));
    else {
      const means = 'is off: the FIB refuses, so the agent has to find each way out itself';
      const all = family === 4 ? 'net.ipv4.ip_forward=1' : 'net.ipv6.conf.all.forwarding=1';
      findings.push(warn(what, means, `sysctl -w ${all}`));
    }
    if (family === 6) findings.push(...routerAdvertisements(name, value, sysctl));
  }
  return findings;
}

/** A host that forwards heeds no router advertisement, unless told to (ip-sysctl, accept_ra). */
function routerAdvertisements(name: string, forwards: string, sysctl: SysctlFacts['sysctl']): Finding[] {
  if (forwards === '0' || sysctl(`net/ipv6/conf/${name}/accept_ra`) !== '1') return [];
  const means =
    'is 1 while IPv6 forwarding is on: router advertisements are ignored, a default route from one runs out';
  return [warn(`accept_ra ${name}`, means, `sysctl -w net/ipv6/conf/${name}/accept_ra=2, or set routes by hand`)];
}

/** The kernel takes the larger of the interface's and `all` (ip-sysctl, rp_filter). */
function reversePath(name: string, { sysctl }: SysctlFacts, consequence: string): Finding {
  const what = `rp_filter ${name}`;
  const value = (of: string) => Number(sysctl(`net/ipv4/conf/${of}/rp_filter`) ?? 0);
  const effective = Math.max(value('all'), value(name));
  if (effective !== 1) return ok(what, `is ${effective}: sources need no route back by this interface`);
  const where = value('all') === 1 ? 'all' : name;
  const means = `is 1 (strict, by conf/${where}): ${consequence} is not by this interface; the kernel alone counts it (nstat TcpExtIPReversePathFilter)`;
  return warn(what, means, `sysctl -w net/ipv4/conf/${name}/rp_filter=2`);
}

function receiveBuffers({ sysctl, mayForceBuffers }: SysctlFacts, { listeners }: Requirements): Finding[] {
  const most = Number(sysctl('net/core/rmem_max') ?? Number.POSITIVE_INFINITY);
  return listeners.flatMap(({ name, settings: { recvBufSize } }) => {
    const what = `receive buffer ${name}`;
    if (recvBufSize === 0) return defaultBuffer(what, most, mayForceBuffers);
    if (recvBufSize <= most) return ok(what, `recv_buf_size ${recvBufSize} is within rmem_max ${most}`);
    if (mayForceBuffers) return ok(what, `recv_buf_size ${recvBufSize} is above rmem_max, which NET_ADMIN may pass`);
    const means = `recv_buf_size ${recvBufSize} is above rmem_max ${most}, which is all that the kernel grants`;
    return warn(what, means, `sysctl -w net.core.rmem_max=${recvBufSize}, or add the capability NET_ADMIN`);
  });
}

/** A full table refuses new neighbours (arp(7), gc_thresh3), and other traffic wants its own: half of it may be ours. */
function neighbourTable(family: Family, { sysctl, neighbours }: SysctlFacts): Finding[] {
  const most = Number(sysctl(`net/ipv${family}/neigh/default/gc_thresh3`) ?? Number.POSITIVE_INFINITY);
  const count = neighbours[family];
  if (count <= most / 2) return [];
  const wanted = 2 ** Math.ceil(Math.log2(count * 2));
  const means = `gc_thresh3 is ${most}, and ${count} downstreams are neighbours: a table that is full refuses some of them`;
  const [soft, hard] = ['gc_thresh2', 'gc_thresh3'].map((name) => `net.ipv${family}.neigh.default.${name}`);
  return [warn(`neighbour table IPv${family}`, means, `sysctl -w ${soft}=${wanted / 2} ${hard}=${wanted}`)];
}

/** Nobody asked for it, so it is only worth a line where it cannot be had. */
function defaultBuffer(what: string, most: number, mayForce: boolean): Finding[] {
  if (mayForce || most >= DEFAULT_RECEIVE_BUFFER) return [];
  const means = `rmem_max ${most} is all that the kernel grants of ${DEFAULT_RECEIVE_BUFFER} bytes: a burst of a few hundred datagrams overflows it`;
  return [warn(what, means, `sysctl -w net.core.rmem_max=${DEFAULT_RECEIVE_BUFFER}, or add the capability NET_ADMIN`)];
}
