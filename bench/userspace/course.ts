/**
 * The course that all forwarders run: a client, a node, three pods whose sockets nobody reads. What arrives there is
 * counted by the kernel as it finds them full, after all that a delivery costs and before what a reader would.
 */
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { AF, bind, SO, SOCK, SOL, setOption, socket } from '../../lab/libc.ts';
import { singleNode } from '../../lab/single-node.ts';
import { encodeSockaddr } from '../../lab/sockaddr.ts';
import type { Forwarder } from './forwarders.ts';
import { compiled } from './programs.ts';

export const PORT = 9000;
/** The forwarder's is the first: that is where the agent pins the first worker of its first listener. */
export const CPU = { forwarder: 0, sender: cpus().length - 1 } as const;
/**
 * Before all ordinary processes. Niceness counts within a session only, so this makes one and puts that before the
 * others too (sched(7), autogroup). Real-time scheduling would starve the kernel's own thread for packets.
 */
const HURRY = 'echo -20 > /proc/self/autogroup; exec nice -n -20 "$@"';
export const FIRST = ['setsid', 'sh', '-c', HURRY, 'sh'] as const;
const POLL_MS = 50;

/** What is sent: datagrams a second (0: flat out), from how many sources, of which sizes. */
export interface Load {
  readonly rate: number;
  readonly sources: number;
  readonly smallest: number;
  readonly largest: number;
}

export interface Pace {
  readonly delivered: number;
  readonly cpuSeconds: number;
  readonly seconds: number;
}

export class Course implements Disposable {
  readonly topology = singleNode();
  readonly directory = this.topology.node.namespace.directory;
  readonly downstreams: readonly string[] = this.topology.pods.map(({ address }) => address);

  /** `coalesces`: whether the node's NIC does what nearly every real one does by default, GRO. */
  constructor(coalesces: boolean) {
    const { node, pods } = this.topology;
    if (coalesces) node.namespace.run('ethtool', ['-K', node.nic, 'gro', 'on']);
    for (const { namespace } of pods) {
      namespace.inside(() => {
        const fd = socket(AF.INET, SOCK.DGRAM);
        setOption(fd, SOL.SOCKET, SO.RCVBUFFORCE, 0);
        bind(fd, encodeSockaddr({ family: 4, ip: '0.0.0.0', port: PORT }));
      });
    }
  }

  /** Sends for so long; how many datagrams left. */
  async send({ rate, sources, smallest, largest }: Load, seconds: number): Promise<number> {
    const { client, node } = this.topology;
    const flood = compiled('flood', this.directory);
    const args = [node.ip, PORT, seconds, rate, sources, smallest, largest].map(String);
    const child = client.namespace.spawn(
      FIRST[0],
      [...FIRST.slice(1), 'taskset', '-c', String(CPU.sender), flood, ...args],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    const [line] = (await once(child.stdout!, 'data')) as [Buffer];
    return Number(String(line).split(' ')[0]);
  }

  /**
   * Fills the receive buffer of a stopped forwarder and lets it go: what it needs for that many datagrams, whatever the
   * sender's speed and whoever else uses the machine.
   */
  async drain(forwarder: Forwarder, load: Load, seconds: number): Promise<Pace> {
    await this.send(load, 0.1);
    await this.#settled();
    const [delivered, cpu] = [this.delivered(), cpuSeconds(forwarder.pid)];
    process.kill(forwarder.pid, 'SIGSTOP');
    await this.send(load, seconds);
    const start = performance.now();
    process.kill(forwarder.pid, 'SIGCONT');
    await this.#settled();
    const elapsed = (performance.now() - start - POLL_MS) / 1000;
    return { delivered: this.delivered() - delivered, cpuSeconds: cpuSeconds(forwarder.pid) - cpu, seconds: elapsed };
  }

  /** What a forwarder delivers while it is sent to. */
  async run(forwarder: Forwarder, load: Load, seconds: number): Promise<Pace & { readonly sent: number }> {
    await this.send(load, 0.1);
    await this.#settled();
    const [delivered, cpu] = [this.delivered(), cpuSeconds(forwarder.pid)];
    const sent = await this.send(load, seconds);
    await this.#settled();
    return { delivered: this.delivered() - delivered, cpuSeconds: cpuSeconds(forwarder.pid) - cpu, seconds, sent };
  }

  /** Datagrams that reached the pods' sockets so far. */
  delivered(): number {
    return this.topology.pods.reduce((sum, { namespace }) => sum + namespace.counters().get('UdpInErrors')!, 0);
  }

  [Symbol.dispose](): void {
    this.topology.close();
  }

  async #settled(): Promise<void> {
    for (let before = -1; before !== this.delivered(); ) {
      before = this.delivered();
      await sleep(POLL_MS);
    }
  }
}

/** CPU time of all threads of a process (Documentation/scheduler/sched-stats.rst). */
function cpuSeconds(pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`);
  const ns = threads.map((thread) =>
    Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]),
  );
  return ns.reduce((sum, each) => sum + each, 0) / 1e9;
}
