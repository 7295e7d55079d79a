/** Capabilities one by one: needed for what, missing with which consequence, and where to add them. */
import { hasCapability } from '../capabilities.ts';
import { type Finding, type Level, ok } from './finding.ts';
import { type Requirements, withoutKernelPath } from './requirements.ts';

export interface CapabilityFacts {
  /** Effective ones, by name without CAP_. */
  readonly effective: ReadonlySet<string>;
  /** net.ipv4.ip_unprivileged_port_start: lower ports need NET_BIND_SERVICE. */
  readonly firstFreePort: number;
}

interface Need {
  readonly name: string;
  readonly purpose: string;
  /** How bad it is to lack it. */
  readonly missing: (requirements: Requirements) => Level;
}

const NEEDS: readonly Need[] = [
  { name: 'BPF', purpose: 'to load the program and its maps', missing: withoutKernelPath },
  {
    name: 'PERFMON',
    purpose: 'for the kernel to accept the program, which computes with pointers',
    missing: withoutKernelPath,
  },
  {
    name: 'NET_ADMIN',
    purpose:
      'to attach the program to an interface; in userspace to keep the source of datagrams and for receive buffers above rmem_max',
    missing: (requirements) => (requirements.kernelPath === 'no' ? 'warn' : withoutKernelPath(requirements)),
  },
  {
    name: 'NET_RAW',
    purpose: 'for ICMP health checks, for the source of datagrams that userspace forwards, and for tcpdump',
    missing: ({ icmp, userspace, kernelPath }) => (icmp || userspace || kernelPath === 'may' ? 'warn' : 'ok'),
  },
  {
    name: 'SYS_ADMIN',
    purpose: "not for the agent: for `bpftool map dump name STATS`, and here for the names of others' programs",
    missing: () => 'ok',
  },
  {
    name: 'SYS_RESOURCE',
    purpose: 'before Linux 5.11, to raise RLIMIT_MEMLOCK, against which maps count there',
    missing: () => 'ok',
  },
];

export function capabilityFindings(
  { effective, firstFreePort }: CapabilityFacts,
  requirements: Requirements,
): Finding[] {
  return [...NEEDS, ...lowPorts(requirements, firstFreePort)].map(({ name, purpose, missing }) => {
    const what = `capability ${name}`;
    if (hasCapability(effective, name)) return ok(what, `is there, ${purpose}`);
    const level = missing(requirements);
    if (level === 'ok') return ok(what, `is missing, and nothing here asks for it (${purpose})`);
    const mend = `add ${name} under securityContext.capabilities.add (k8s/daemonset.yaml), elsewhere --cap-add ${name}`;
    return { level, what, means: `is missing: ${purpose}`, mend };
  });
}

function lowPorts({ listeners }: Requirements, firstFreePort: number): Need[] {
  const low = listeners.filter(({ bind }) => bind.port < firstFreePort);
  if (low.length === 0) return [];
  const ports = low.map(({ bind }) => bind.port).join(', ');
  // The kernel path has no socket; only its safety net has one.
  const missing = (): Level => (low.some(({ mode }) => mode === 'userspace') ? 'fail' : 'warn');
  return [{ name: 'NET_BIND_SERVICE', purpose: `for a socket on port ${ports} (userspace, safety net)`, missing }];
}
