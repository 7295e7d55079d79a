/** `udp-fanout doctor`: looks at this machine as the agent would meet it, and says what it found. Changes nothing. */
import { release } from 'node:os';
import { resolve } from 'node:path';
import { digestOf } from '../config/followed.ts';
import { loadConfig } from '../config/load.ts';
import { askAgent } from '../lock.ts';
import type { Listener } from '../model.ts';
import { openHost } from '../netlink/host.ts';
import { type AgentFacts, agentFindings } from './agent.ts';
import { bindFindings } from './binds.ts';
import { capabilityFindings } from './capabilities.ts';
import { claimFindings } from './claims.ts';
import { clusterFindings } from './cluster.ts';
import { type Finding, isHealthy, textOf } from './finding.ts';
import { hookFindings } from './hook.ts';
import { interfaceFindings } from './interfaces.ts';
import { readHooks } from './look/hook.ts';
import { tryProgram } from './look/kernel.ts';
import { featuresOf, hookedLinks } from './look/nics.ts';
import { isBpffsMounted, readCapabilities, readSysctl } from './look/process.ts';
import { readRules } from './look/rules.ts';
import { readSockets } from './look/sockets.ts';
import { staticReceivers, waysOut, waysTo } from './look/ways.ts';
import { machineFindings } from './machine.ts';
import { routeFindings } from './routes.ts';
import { sysctlFindings } from './sysctls.ts';
import { NO_CONFIG, type Wants, wantsOf } from './wants.ts';

export interface DoctorOptions {
  /** Absent: only what concerns the machine, whatever the config. */
  readonly config?: string;
  readonly json: boolean;
  readonly objectPath: string;
}

/** Prints the findings; 0 if nothing fails, else 1. Throws ConfigError. */
export async function runDoctor({ config, json, objectPath }: DoctorOptions): Promise<number> {
  const podNamespace = process.env.POD_NAMESPACE;
  const loaded = config === undefined ? undefined : loadConfig(config, { podNamespace });
  const given = loaded && { path: resolve(config!), digest: digestOf(loaded) };
  const agent = { agent: await askAgent(), ...(given && { config: given }) };
  const findings = await examine(loaded ? wantsOf(loaded) : NO_CONFIG, agent, objectPath);
  const healthy = isHealthy(findings);
  const lines = json ? [JSON.stringify({ ok: healthy, findings }, null, 2)] : findings.map(textOf);
  process.stdout.write(`${lines.join('\n')}\n`);
  return healthy ? 0 : 1;
}

async function examine(wants: Wants, agent: AgentFacts, objectPath: string): Promise<Finding[]> {
  const { listeners, metrics } = wants;
  const host = openHost();
  try {
    const links = host.links();
    const addresses = host.addresses();
    const nics = hookedLinks(wants, links, addresses);
    const cluster = await askCluster(listeners);
    const ways = waysTo([...staticReceivers(listeners), ...cluster.endpoints], host, links);
    const ports = new Set(listeners.map(({ bind }) => bind.port));
    const { rules, from: rulesFrom } = readRules(ports);
    const sockets = readSockets(metrics ? new Set([...ports, metrics.port]) : ports, agent.agent !== undefined);
    const capabilities = readCapabilities();
    const features = featuresOf(nics);
    return [
      ...machineFindings({ release: release(), bpffs: isBpffsMounted(), ...tryProgram(objectPath, listeners) }, wants),
      ...agentFindings(agent),
      ...capabilityFindings({ effective: capabilities, firstFreePort: firstFreePort() }, wants),
      ...interfaceFindings({ links, features }, wants),
      ...bindFindings({ links, addresses }, wants),
      ...sysctlFindings(
        { sysctl: readSysctl, links, waysOut: waysOut(ways), mayForceBuffers: capabilities.has('NET_ADMIN') },
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
