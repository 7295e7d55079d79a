/** `udp-fanout doctor`: looks at this machine as the agent would meet it, and says what it found. Changes nothing. */
import { release } from 'node:os';
import { formatAddress } from '../address.ts';
import { loadConfig } from '../config/load.ts';
import { loadObject } from '../datapath/tc/object.ts';
import type { Endpoint, Listener } from '../model.ts';
import { type Host, openHost } from '../netlink/host.ts';
import { ARPHRD_ETHER, findLink, type Link } from '../netlink/link.ts';
import { bindFindings } from './binds.ts';
import { capabilityFindings } from './capabilities.ts';
import { claimFindings } from './claims.ts';
import { clusterFindings } from './cluster.ts';
import { type Finding, isHealthy, textOf } from './finding.ts';
import { hookFindings } from './hook.ts';
import { interfaceFindings } from './interfaces.ts';
import { readFeatures } from './look/features.ts';
import { readHooks } from './look/hook.ts';
import { isAgentRunning, isBpffsMounted, readCapabilities, readSysctl } from './look/process.ts';
import { readRules } from './look/rules.ts';
import { readSockets } from './look/sockets.ts';
import { machineFindings } from './machine.ts';
import { routeFindings, type Way } from './routes.ts';
import { sysctlFindings } from './sysctls.ts';
import { interfaceNames, NO_CONFIG, type Wants, wantsOf } from './wants.ts';

export interface DoctorOptions {
  /** Absent: only what concerns the machine, whatever the config. */
  readonly config?: string;
  readonly json: boolean;
  readonly objectPath: string;
}

/** Prints the findings; 0 if nothing fails, else 1. Throws ConfigError. */
export async function runDoctor({ config, json, objectPath }: DoctorOptions): Promise<number> {
  const podNamespace = process.env.POD_NAMESPACE;
  const wants = config === undefined ? NO_CONFIG : wantsOf(loadConfig(config, { podNamespace }));
  const findings = await examine(wants, objectPath);
  const healthy = isHealthy(findings);
  const lines = json ? [JSON.stringify({ ok: healthy, findings }, null, 2)] : findings.map(textOf);
  process.stdout.write(`${lines.join('\n')}\n`);
  return healthy ? 0 : 1;
}

async function examine(wants: Wants, objectPath: string): Promise<Finding[]> {
  const { listeners, metrics } = wants;
  const host = openHost();
  try {
    const links = host.links();
    const nics = hookedLinks(wants, links);
    const cluster = await askCluster(listeners);
    const ways = waysTo([...staticEndpoints(listeners), ...cluster.endpoints], host, links);
    const ports = new Set(listeners.map(({ bind }) => bind.port));
    const { rules, from: rulesFrom } = readRules(ports);
    const sockets = readSockets(metrics ? new Set([...ports, metrics.port]) : ports);
    const capabilities = readCapabilities();
    const features = new Map(nics.flatMap(({ name }) => (readFeatures(name) ? [[name, readFeatures(name)!]] : [])));
    return [
      ...machineFindings(readMachine(objectPath, listeners.length), wants),
      ...capabilityFindings({ effective: capabilities, firstFreePort: firstFreePort() }, wants),
      ...interfaceFindings({ links, features }, wants),
      ...bindFindings({ links, addresses: host.addresses() }, wants),
      ...sysctlFindings(
        { sysctl: readSysctl, links, waysOut: names(ways), mayForceBuffers: capabilities.has('NET_ADMIN') },
        wants,
      ),
      ...hookFindings(readHooks(host, nics)),
      ...claimFindings({ sockets, rules, rulesFrom }, wants),
      ...clusterFindings(cluster.services),
      ...routeFindings({ links, ways }, wants),
    ];
  } finally {
    host.close();
  }
}

/** The interfaces that the config names; without a config, those that it could name. */
function hookedLinks({ listeners }: Wants, links: readonly Link[]): Link[] {
  if (listeners.length === 0) return links.filter(({ type, up, kind }) => type === ARPHRD_ETHER && up && kind === '');
  const named = interfaceNames(listeners).map((name) => findLink(links, name));
  return named.filter((link) => link !== undefined);
}

function readMachine(objectPath: string, listeners: number) {
  const facts = { release: release(), bpffs: isBpffsMounted(), agent: isAgentRunning() };
  try {
    loadObject(objectPath, Math.max(1, listeners)).close();
    return facts;
  } catch (error) {
    return { ...facts, obstacle: (error as Error).message };
  }
}

function firstFreePort(): number {
  return Number(readSysctl('net/ipv4/ip_unprivileged_port_start') ?? 1024);
}

/** What speaks to Kubernetes is loaded only where a listener wants it. */
async function askCluster(listeners: readonly Listener[]) {
  if (!listeners.some(({ source }) => source.kind === 'kubernetes')) return { services: [], endpoints: [] };
  const { readCluster } = await import('./look/cluster.ts');
  const answers = await readCluster(listeners);
  return { services: answers.map(({ facts }) => facts), endpoints: answers.flatMap(({ endpoints }) => endpoints) };
}

function staticEndpoints(listeners: readonly Listener[]): (readonly [string, readonly Endpoint[]])[] {
  return listeners.flatMap(({ name, source }) => (source.kind === 'static' ? [[name, source.endpoints] as const] : []));
}

function waysTo(
  receivers: readonly (readonly [string, readonly Endpoint[]])[],
  host: Pick<Host, 'route'>,
  links: readonly Link[],
): Way[] {
  return receivers.flatMap(([listener, endpoints]) =>
    endpoints.map(({ address }) => {
      const way = { listener, downstream: formatAddress(address), family: address.family };
      const route = host.route(address);
      const link = links.find(({ index }) => index === route?.ifindex);
      if (!route || !link) return way;
      const mtu = Math.min(link.mtu, route.mtu ?? link.mtu);
      return { ...way, out: { name: link.name, mtu, local: route.local } };
    }),
  );
}

function names(ways: readonly Way[]): string[] {
  return [...new Set(ways.flatMap(({ out }) => (out && !out.local ? [out.name] : [])))];
}
