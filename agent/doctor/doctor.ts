/** `udp-fanout doctor`: looks at this machine as the agent would meet it, and says what it found. Changes nothing. */
import { release } from 'node:os';
import { resolve } from 'node:path';
import { effectiveCapabilities } from '../capabilities.ts';
import { digestOf } from '../config/followed.ts';
import { loadConfig } from '../config/load.ts';
import { interfacesWithOurs } from '../datapath/tc/clsact.ts';
import { cgroupLimits } from '../kernel/cgroup.ts';
import { askAgent } from '../lock.ts';
import type { Listener } from '../model.ts';
import { ownAddresses } from '../netlink/address.ts';
import { openHost } from '../netlink/host.ts';
import { type AgentFacts, agentFindings } from './agent.ts';
import { bindFindings } from './binds.ts';
import { capabilityFindings } from './capabilities.ts';
import { clusterFindings } from './cluster.ts';
import { conflictFindings } from './conflicts.ts';
import { readHooks } from './facts/hook.ts';
import { tryProgram } from './facts/kernel.ts';
import { featuresOf, hookedLinks } from './facts/nics.ts';
import { isBpffsMounted, readSysctl } from './facts/process.ts';
import { egressInterfaces, neighboursOf, receiverRoutes, staticReceivers } from './facts/routes.ts';
import { readRules } from './facts/rules.ts';
import { readSockets } from './facts/sockets.ts';
import { type Finding, isHealthy, textOf } from './finding.ts';
import { hookFindings } from './hook.ts';
import { interfaceFindings } from './interfaces.ts';
import { machineFindings } from './machine.ts';
import { memoryFindings } from './memory.ts';
import { NO_CONFIG, type Requirements, requirementsOf } from './requirements.ts';
import { routeFindings } from './routes.ts';
import { sysctlFindings } from './sysctls.ts';

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
  const agent = await askAgent();
  const findings = await examine(
    loaded ? requirementsOf(loaded) : NO_CONFIG,
    { agent, ...(given && { config: given }) },
    objectPath,
  );
  const healthy = isHealthy(findings);
  const lines = json ? [JSON.stringify({ ok: healthy, findings }, null, 2)] : findings.map(textOf);
  process.stdout.write(`${lines.join('\n')}\n`);
  return healthy ? 0 : 1;
}

async function examine(
  requirements: Requirements,
  running: Omit<AgentFacts, 'attached'>,
  objectPath: string,
): Promise<Finding[]> {
  const { listeners, metrics } = requirements;
  const host = openHost();
  try {
    const links = host.links();
    const addresses = ownAddresses(host.addresses(), links);
    const nics = hookedLinks(requirements, links, addresses);
    const cluster = await askCluster(listeners);
    const routes = receiverRoutes([...staticReceivers(listeners), ...cluster.endpoints], host, links);
    const ports = new Set(listeners.map(({ bind }) => bind.port));
    const { rules, from: rulesFrom } = readRules(ports);
    const sockets = readSockets(metrics ? new Set([...ports, metrics.port]) : ports, running.agent !== undefined);
    const capabilities = effectiveCapabilities();
    const features = featuresOf(nics);
    return [
      ...machineFindings({ release: release(), bpffs: isBpffsMounted(), ...tryProgram(objectPath) }, requirements),
      ...agentFindings({ ...running, attached: interfacesWithOurs(host) }),
      ...memoryFindings(cgroupLimits().memory, requirements),
      ...capabilityFindings({ effective: capabilities, firstFreePort: firstFreePort() }, requirements),
      ...interfaceFindings({ links, features }, requirements),
      ...bindFindings({ links, addresses }, requirements),
      ...sysctlFindings(
        {
          sysctl: readSysctl,
          links,
          egress: egressInterfaces(routes),
          neighbours: neighboursOf(routes),
          mayForceBuffers: capabilities.has('NET_ADMIN'),
        },
        requirements,
      ),
      ...hookFindings(readHooks(host, nics)),
      ...conflictFindings({ sockets, rules, rulesFrom }, requirements),
      ...clusterFindings(cluster.services),
      ...routeFindings({ links, routes }, requirements),
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
  if (!listeners.some(({ endpoints }) => endpoints.kind === 'kubernetes')) return { services: [], endpoints: [] };
  const { readCluster } = await import('./facts/cluster.ts');
  const answers = await readCluster(listeners);
  return { services: answers.map(({ facts }) => facts), endpoints: answers.flatMap(({ endpoints }) => endpoints) };
}
