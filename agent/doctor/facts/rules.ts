/** Rules that send a UDP port elsewhere: kube-proxy's and hostPorts', in nftables, iptables or IPVS. */
import { execFileSync } from 'node:child_process';
import { ipText } from '../../address.ts';
import type { Rule } from '../conflicts.ts';
import { read } from './process.ts';

export interface Rules {
  readonly rules: readonly Rule[];
  readonly from: readonly string[];
}

const TIMEOUT_MS = 10_000;
const MOST_BYTES = 256 << 20;
const LONGEST = 120;
/** What sends a datagram elsewhere or leads to what does; a rule that only filters takes nothing from us. */
const DIVERTS = /\b(dnat|redirect|tproxy|jump|goto)\b|-j (?!ACCEPT|DROP|REJECT|RETURN|LOG|MARK)/;

/** Those that can be read on this machine, of these ports. */
export function readRules(ports: ReadonlySet<number>): Rules {
  const wanted = (rules: readonly Rule[]) => rules.filter(({ port }) => ports.has(port));
  const sources = [
    ['nft', run('nft', ['list', 'ruleset']), decodeNft],
    ['iptables-save', run('iptables-save', ['-t', 'nat']), decodeIptables],
    ['ip6tables-save', run('ip6tables-save', ['-t', 'nat']), decodeIptables],
    ['IPVS', read('/proc/net/ip_vs'), decodeIpvs],
  ] as const;
  const readable = sources.filter(([, text]) => text !== undefined);
  const rules = readable.flatMap(([, text, decode]) => wanted(decode(text!)));
  return { rules: distinct(rules), from: readable.map(([name]) => name) };
}

/** Of `nft list ruleset`: rules, and the elements of kube-proxy's maps (`10.96.0.10 . udp . 53 : goto …`). */
export function decodeNft(text: string): Rule[] {
  return text.split('\n').flatMap((line) => {
    const elements = [...line.matchAll(/([0-9a-f.:]+) \. udp \. (\d+) : (?:goto|jump) [^\s,}]+/g)];
    if (elements.length > 0) {
      return elements.map(([whole, ip, port]) => ({ ip: ip!, port: Number(port), text: whole }));
    }
    const [, set] = /(?:udp|th) dport (\{[^}]*\}|\d+)/.exec(line) ?? [];
    if (set === undefined || !DIVERTS.test(line) || /l4proto tcp|ip protocol tcp/.test(line)) return [];
    const ip = /ip6? daddr ([0-9a-f.:]+)(?![0-9a-f.:/])/.exec(line)?.[1];
    return portsIn(set).map((port) => rule(port, line, ip));
  });
}

/** Of `iptables-save`: `-A CHAIN -d 10.43.0.10/32 -p udp … --dport 53 -j TARGET`. */
export function decodeIptables(text: string): Rule[] {
  return text.split('\n').flatMap((line) => {
    const [, list] = /--dports? ([\d,:]+)/.exec(line) ?? [];
    if (list === undefined || !/-p udp\b/.test(line) || !DIVERTS.test(line)) return [];
    const ip = /-d ([0-9a-f.:]+)\/(?:32|128)\b/.exec(line)?.[1];
    return portsIn(list).map((port) => rule(port, line, ip));
  });
}

/** Of /proc/net/ip_vs: `UDP  0A2B000A:0035 rr`, `UDP  [fd00:…]:0035 rr`. */
export function decodeIpvs(text: string): Rule[] {
  return [...text.matchAll(/^UDP +(?:([0-9A-F]{8})|\[([0-9a-f:]+)\]):([0-9A-F]{4})/gm)].map(([line, v4, v6, port]) => {
    const ip = v4 === undefined ? v6! : ipText(Buffer.from(v4, 'hex'));
    return { ip, port: Number.parseInt(port!, 16), text: `IPVS ${line}` };
  });
}

function portsIn(text: string): number[] {
  return (text.match(/\d+/g) ?? []).map(Number);
}

function rule(port: number, line: string, ip: string | undefined): Rule {
  return { port, text: line.trim().replaceAll('"', "'").slice(0, LONGEST), ...(ip !== undefined && { ip }) };
}

/** iptables on nftables shows the same rule twice. */
function distinct(rules: readonly Rule[]): Rule[] {
  return [...new Map(rules.map((one) => [`${one.ip} ${one.port}`, one])).values()];
}

function run(command: string, args: readonly string[]): string | undefined {
  try {
    const options = { encoding: 'utf8', timeout: TIMEOUT_MS, maxBuffer: MOST_BYTES, stdio: 'pipe' } as const;
    return execFileSync(command, args, options);
  } catch {
    return undefined;
  }
}
