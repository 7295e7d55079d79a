/** One network namespace of a lab: its addresses, counters and processes. */
import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AF, connect, insideNamespace, SO, SOCK, SOL, setOption, socket } from './libc.ts';
import { patient } from './patience.ts';
import { encodeSockaddr, parseAddress } from './sockaddr.ts';

export const NAMESPACE_DIRECTORY = '/run/netns';

/** Values by their path below /proc/sys, with slashes, since interface names may hold dots. */
export type Sysctls = Readonly<Record<string, string | number>>;

/** Packets and bytes that an interface has received and sent, as `ip -s link` counts them. */
export interface InterfaceCounters {
  readonly rxBytes: number;
  readonly rxPackets: number;
  readonly txBytes: number;
  readonly txPackets: number;
}

/** A host's network; its files and processes are the machine's. */
export class Namespace {
  /** The name that `ip netns` knows. */
  readonly name: string;
  /** The host's name in its topology: `client`, `node`, `pod0`. */
  readonly role: string;
  readonly path: string;
  readonly #processes: Set<number>;

  /** `processes` is the lab's list of ids of the processes that it has to end. */
  constructor(name: string, role: string, processes: Set<number>) {
    this.name = name;
    this.#processes = processes;
    this.role = role;
    this.path = `${NAMESPACE_DIRECTORY}/${name}`;
  }

  /** A directory for files of processes in here, such as configs; it goes with the lab. */
  get directory(): string {
    const path = join(tmpdir(), this.name);
    mkdirSync(path, { recursive: true, mode: 0o700 });
    return path;
  }

  /** Runs `ip` commands, without the word `ip`, in one batch; the first that fails throws with its text. */
  ip(lines: readonly string[]): void {
    batch('ip', lines, ['-n', this.name]);
  }

  /** Runs `bridge` commands in one batch. */
  bridge(lines: readonly string[]): void {
    batch('bridge', lines, ['-n', this.name]);
  }

  /** Runs a command to its end and returns its standard output. Only the network is the namespace's; files are the host's. */
  run(command: string, args: readonly string[] = []): string {
    return execFileSync('nsenter', this.#enter(command, args), { encoding: 'utf8', stdio: 'pipe' });
  }

  /** Starts a command; it ends with the lab at the latest. */
  spawn(command: string, args: readonly string[] = [], options: SpawnOptions = {}): ChildProcess {
    return this.track(spawn('nsenter', this.#enter(command, args), options));
  }

  /** Has the lab end a process that works in the namespace without living there. */
  track(child: ChildProcess): ChildProcess {
    const { pid } = child;
    if (pid === undefined) return child;
    this.#processes.add(pid);
    return child.once('exit', () => this.#processes.delete(pid));
  }

  /** Runs `work` with this thread in the namespace: sockets it opens, /proc/sys and routes are the namespace's. */
  inside<T>(work: () => T): T {
    return insideNamespace(this.path, work);
  }

  /** Writes sysctls: `{ 'net/ipv4/ip_forward': 1 }`. */
  sysctl(values: Sysctls): void {
    this.inside(() => {
      for (const [path, value] of Object.entries(values)) writeFileSync(`/proc/sys/${path}`, String(value));
    });
  }

  /** The protocol counters of /proc/net/snmp and snmp6 by name: `UdpInCsumErrors`, `Udp6NoPorts`, `IpForwDatagrams`. */
  counters(): Map<string, number> {
    return this.inside(readCounters);
  }

  /** The names of the interfaces, `lo` excepted. */
  interfaces(): string[] {
    return [...this.inside(readInterfaces).keys()].filter((name) => name !== 'lo');
  }

  /** What an interface has received and sent so far. */
  interfaceCounters(name: string): InterfaceCounters {
    const counters = this.inside(readInterfaces).get(name);
    if (!counters) throw new Error(`interface not found: ${name}`);
    return counters;
  }

  /** A TCP connection opened inside the namespace; throws at once if nobody listens. */
  connect(address: string): Socket {
    const target = parseAddress(address);
    const fd = this.inside(() => {
      const opened = socket(target.family === 4 ? AF.INET : AF.INET6, SOCK.STREAM);
      const timeout = Buffer.alloc(16);
      timeout.writeBigInt64LE(BigInt(Math.ceil(patient(2))));
      setOption(opened, SOL.SOCKET, SO.SNDTIMEO, timeout);
      connect(opened, encodeSockaddr(target));
      return opened;
    });
    return new Socket({ fd, readable: true, writable: true });
  }

  // `ip netns exec` would mount a new /sys and with it hide bpffs.
  #enter(command: string, args: readonly string[]): string[] {
    return [`--net=${this.path}`, '--', command, ...args];
  }
}

/** Runs lines of `ip` or `bridge` in one process. */
export function batch(tool: 'ip' | 'bridge', lines: readonly string[], options: readonly string[] = []): void {
  if (lines.length === 0) return;
  try {
    execFileSync(tool, [...options, '-batch', '-'], {
      input: `${lines.join('\n')}\n`,
      encoding: 'utf8',
      stdio: 'pipe',
    });
  } catch (cause) {
    const output = (cause as { stderr?: string }).stderr ?? String(cause);
    const line = lines[Number(/Command failed -:(\d+)/.exec(output)?.[1]) - 1];
    throw new Error(`${tool} ${options.join(' ')} ${line ?? '-batch'}: ${output.split('\n')[0]}`, { cause });
  }
}

/** The protocol counters of the namespace that this thread is in. */
export function readCounters(): Map<string, number> {
  const counters = new Map<string, number>();
  const lines = readFileSync('/proc/thread-self/net/snmp', 'utf8').trim().split('\n');
  for (let i = 0; i + 1 < lines.length; i += 2) {
    const [protocol = '', ...names] = lines[i]!.split(' ');
    const values = lines[i + 1]!.split(' ').slice(1);
    for (const [at, name] of names.entries()) counters.set(protocol.replace(':', '') + name, Number(values[at]));
  }
  for (const line of readFileSync('/proc/thread-self/net/snmp6', 'utf8').trim().split('\n')) {
    const [name = '', value] = line.split(/\s+/);
    counters.set(name, Number(value));
  }
  return counters;
}

function readInterfaces(): Map<string, InterfaceCounters> {
  const interfaces = new Map<string, InterfaceCounters>();
  for (const line of readFileSync('/proc/thread-self/net/dev', 'utf8').trim().split('\n').slice(2)) {
    const [name = '', numbers = ''] = line.split(/:(?=[^:]*$)/);
    const fields = numbers.trim().split(/\s+/).map(Number);
    const [rxBytes, rxPackets, txBytes, txPackets] = [fields[0]!, fields[1]!, fields[8]!, fields[9]!];
    interfaces.set(name.trim(), { rxBytes, rxPackets, txBytes, txPackets });
  }
  return interfaces;
}
