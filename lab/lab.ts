/**
 * A lab: network namespaces, the links between them and the processes in them, built from a plain description and
 * removed as a whole: by `close`, when the process exits or is interrupted, or by the next lab if it was killed.
 */
import { readFileSync } from 'node:fs';
import { batch, Namespace, type Sysctls } from './namespace.ts';
import { newLabId, removeAbandonedLabs, removeLab } from './ownership.ts';
import { endProcesses, membersOf } from './processes.ts';

/** What a lab is made of. Links are made first and brought up, then each host's sysctls, `ip` and `bridge` lines run. */
export interface Blueprint {
  readonly hosts: Readonly<Record<string, HostBlueprint>>;
  readonly links?: readonly Link[];
}

export interface HostBlueprint {
  readonly sysctls?: Sysctls;
  /** Lines of `ip`: addresses, bridges, routes, neighbours. */
  readonly ip?: readonly string[];
  /** Lines of `bridge`. */
  readonly bridge?: readonly string[];
}

/** A veth pair between two hosts of the lab; nothing of it ever shows in the machine's own namespace. */
export type Link = readonly [LinkEnd, LinkEnd];

export interface LinkEnd {
  readonly host: string;
  readonly name: string;
  readonly mac?: string;
  readonly mtu?: number;
  /**
   * A veth leaves transmit checksums to hardware that does not exist (CHECKSUM_PARTIAL) and its peer never verifies
   * them; `computed` turns that off, so that what is sent here arrives like from a wire.
   */
  readonly checksums?: 'computed' | 'offloaded';
}

// IPv6 addresses are usable at once, nothing is filtered by source, nobody chatters on the links.
const QUIET: Sysctls = {
  'net/ipv4/conf/all/rp_filter': 0,
  'net/ipv4/conf/default/rp_filter': 0,
  'net/ipv4/ip_forward': 0,
  'net/ipv6/conf/all/forwarding': 0,
  'net/ipv6/conf/all/accept_dad': 0,
  'net/ipv6/conf/default/accept_dad': 0,
  'net/ipv6/conf/default/dad_transmits': 0,
  'net/ipv6/conf/default/router_solicitations': 0,
  'net/ipv6/conf/default/accept_ra': 0,
};
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const CAPABILITIES = { CAP_NET_ADMIN: 12n, CAP_NET_RAW: 13n, CAP_SYS_ADMIN: 21n };
const open = new Set<Lab>();

/** Why no lab can be built here, or undefined if one can: the text of a skipped test. */
export function labObstacle(): string | undefined {
  if (process.platform !== 'linux') return 'network namespaces need Linux';
  const capabilities = BigInt(`0x${/CapEff:\s*(\w+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0}`);
  const lacks = Object.entries(CAPABILITIES).filter(([, bit]) => ((capabilities >> bit) & 1n) === 0n);
  return lacks.length === 0 ? undefined : `network namespaces need ${lacks.map(([name]) => name).join(' and ')}`;
}

/** A topology that stands. */
export class Lab implements Disposable, AsyncDisposable {
  /** Begins the names of all that is this lab's. */
  readonly id: string;
  readonly #processes = new Set<number>();
  readonly #namespaces = new Map<string, Namespace>();
  #ends: LinkEnd[] = [];

  private constructor() {
    this.id = newLabId();
  }

  /** Removes what dead owners left, then builds. If the blueprint fails, nothing stays. */
  static build(blueprint: Blueprint): Lab {
    removeAbandonedLabs();
    const lab = new Lab();
    if (open.size === 0) watchForExit();
    open.add(lab);
    try {
      lab.extend(blueprint);
      return lab;
    } catch (error) {
      lab.close();
      throw error;
    }
  }

  /** Adds hosts and links to the lab while it runs; links may name hosts that are there already. */
  extend({ hosts, links = [] }: Blueprint): void {
    const added = Object.keys(hosts).filter((role) => !this.#namespaces.has(role));
    batch(
      'ip',
      added.map((role) => `netns add ${this.id}${role}`),
    );
    for (const role of added) {
      const namespace = new Namespace(`${this.id}${role}`, role, this.#processes);
      this.#namespaces.set(role, namespace);
      namespace.sysctl(QUIET);
    }
    batch(
      'ip',
      links.map((link) => this.#linkLine(link)),
    );
    const ends = links.flat();
    this.#ends.push(...ends);
    for (const end of ends) {
      if (end.checksums === 'computed') this.namespace(end.host).run('ethtool', ['-K', end.name, 'tx', 'off']);
    }
    for (const role of new Set([...ends.map((end) => end.host), ...Object.keys(hosts)])) {
      const mine = ends.filter((end) => end.host === role);
      this.#configure(this.namespace(role), mine, hosts[role] ?? {});
    }
  }

  /** The namespace of a host of the blueprint. */
  namespace(role: string): Namespace {
    const found = this.#namespaces.get(role);
    if (!found)
      throw new Error(`host "${role}": not in this lab, which has ${[...this.#namespaces.keys()].join(', ')}`);
    return found;
  }

  /** Takes a host away as when it dies: its links vanish, its processes end. */
  remove(role: string): void {
    const namespace = this.namespace(role);
    // A socket that another process holds keeps a namespace and its links alive, so the links go by name.
    const ends = this.#ends.filter(({ host }) => host === role);
    namespace.ip(ends.map(({ name }) => `link del ${name}`));
    endProcesses(membersOf([namespace.path]));
    batch('ip', [`netns del ${namespace.name}`]);
    this.#namespaces.delete(role);
    this.#ends = this.#ends.filter(({ host }) => host !== role);
  }

  /** Ends every process in the lab's namespaces and removes them; blocks until it is done. Safe to call again. */
  close(): void {
    if (!open.delete(this)) return;
    // One that was started just now may not have entered its namespace yet.
    removeLab(this.id, [...this.#processes]);
    this.#namespaces.clear();
    if (open.size === 0) unwatch();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #linkLine([left, right]: Link): string {
    const end = ({ host, name, mac, mtu }: LinkEnd) =>
      `name ${name} netns ${this.namespace(host).name}${mac ? ` address ${mac}` : ''}${mtu ? ` mtu ${mtu}` : ''}`;
    return `link add ${end(left)} type veth peer ${end(right)}`;
  }

  #configure(namespace: Namespace, ends: readonly LinkEnd[], { sysctls, ip, bridge }: HostBlueprint): void {
    if (sysctls) namespace.sysctl(sysctls);
    const up = ['lo', ...ends.map((end) => end.name)].map((name) => `link set ${name} up`);
    namespace.ip([...up, ...(ip ?? [])]);
    namespace.bridge(bridge ?? []);
  }
}

function closeAll(): void {
  for (const lab of open) lab.close();
}

function onSignal(signal: NodeJS.Signals): void {
  // A program with a handler of its own closes its lab in order; the exit handler remains as the net.
  if (process.listenerCount(signal) > 1) return;
  closeAll();
  process.kill(process.pid, signal);
}

function watchForExit(): void {
  process.on('exit', closeAll);
  for (const signal of SIGNALS) process.on(signal, onSignal);
}

function unwatch(): void {
  process.off('exit', closeAll);
  for (const signal of SIGNALS) process.off(signal, onSignal);
}
