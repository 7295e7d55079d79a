/** Who else wants the same address and port: sockets, kube-proxy, hostPorts, and for metrics any server. */
import { formatAddress, isWildcard, type SocketAddress } from '../address.ts';
import type { Listener } from '../model.ts';
import { type Finding, fail, ok, warn } from './finding.ts';
import type { Requirements } from './requirements.ts';

/** A socket that holds an address: of UDP any, of TCP one that listens. */
export interface HeldSocket extends SocketAddress {
  readonly protocol: 'udp' | 'tcp';
  /** `nginx (process 812)`; absent where its process cannot be seen. */
  readonly owner?: string;
  /** It is an udp-fanout agent's. */
  readonly ours: boolean;
}

/** A rule that sends datagrams of a port elsewhere. */
export interface Rule {
  /** Absent: whatever the address. */
  readonly ip?: string;
  readonly port: number;
  readonly text: string;
}

export interface ConflictFacts {
  readonly sockets: readonly HeldSocket[];
  readonly rules: readonly Rule[];
  /** Where the rules were read; none: `nft` and `iptables-save` are not there or may not be used. */
  readonly rulesFrom: readonly string[];
}

export function conflictFindings(facts: ConflictFacts, { listeners, metrics }: Requirements): Finding[] {
  return [
    ...listeners.flatMap((listener) => [...socketFindings(listener, facts), ...ruleFindings(listener, facts)]),
    ...unseenRules(facts, listeners),
    ...(metrics ? [metricsFinding(metrics, facts)] : []),
  ];
}

function socketFindings({ name, bind, mode }: Listener, { sockets }: ConflictFacts): Finding[] {
  const what = `port ${name}`;
  const others = sockets.filter((one) => one.protocol === 'udp' && !one.ours && overlaps(one, bind));
  if (others.length === 0) return [ok(what, `no other socket has UDP ${formatAddress(bind)}`)];
  return others.map((other) => {
    const who = `${other.owner ?? 'a process that cannot be seen from here'} has UDP ${formatAddress(other)}`;
    if (mode === 'userspace') return fail(what, `${who}, so the listener cannot`, 'stop it, or choose another port');
    const means = `${who}: it gets nothing of what the kernel path takes, and the listener has no safety net`;
    return warn(what, means, 'stop it, or choose another port');
  });
}

function ruleFindings({ name, bind, mode }: Listener, { rules }: ConflictFacts): Finding[] {
  const isWild = isWildcard(bind);
  const ours = rules.filter(({ ip, port }) => port === bind.port && (ip === undefined || isWild || ip === bind.ip));
  return ours.slice(0, 3).map((rule) => {
    const what = `rule ${name}`;
    const told = `"${rule.text}" also wants ${rule.ip ?? 'any address'} port ${rule.port}`;
    if (mode === 'userspace') {
      return fail(
        what,
        `${told}, and comes before the listener's socket`,
        'remove the Service port or hostPort, or use mode: tc_ebpf',
      );
    }
    const means = `${told}: what the kernel path takes never reaches it; it serves senders on this node, and all when no agent runs`;
    // The usual sight of a load balancer's VIP: kube-proxy knows it as well.
    return rule.ip !== undefined && !isWild ? ok(what, means) : warn(what, means, 'remove it if it is not meant so');
  });
}

function unseenRules({ rulesFrom }: ConflictFacts, listeners: readonly Listener[]): Finding[] {
  if (listeners.length === 0) return [];
  const what = 'rules';
  if (rulesFrom.length > 0) return [ok(what, `kube-proxy and hostPort rules were read from ${rulesFrom.join(', ')}`)];
  return [ok(what, 'cannot be read here (no nft, no iptables-save, no IPVS): run `nft list ruleset` on the node')];
}

function metricsFinding(bind: SocketAddress, { sockets }: ConflictFacts): Finding {
  const what = 'metrics port';
  const holder = sockets.find((one) => one.protocol === 'tcp' && overlaps(one, bind));
  const address = formatAddress(bind);
  if (!holder) return ok(what, `TCP ${address} is free`);
  if (holder.ours) return ok(what, `TCP ${address} is the running agent's`);
  const who = holder.owner ?? 'another process';
  return fail(
    what,
    `TCP ${address} is taken by ${who}, so the agent would not start`,
    'set metrics.bind to a free port',
  );
}

/** Whether two sockets would be in each other's way; `::` takes IPv4 as well. */
function overlaps(one: SocketAddress, other: SocketAddress): boolean {
  if (one.port !== other.port) return false;
  if (one.ip === '::' || other.ip === '::') return true;
  return one.family === other.family && (one.ip === other.ip || isWildcard(one) || isWildcard(other));
}
