/** The agents of a node, one after the other: ended, followed by the next, told other configs; what they count goes on. */
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { type Agent, type AgentOptions, startAgent } from './agent.ts';
import type { Host } from './host.ts';
import { pause } from './patience.ts';

const FOLLOWED = /INFO following the edited config /;

export interface SuccessionOptions extends AgentOptions {
  /** The line after which an agent that was started serves. */
  readonly ready?: RegExp;
}

export interface NextOptions extends AgentOptions {
  /** Its counters start anew. */
  readonly anew?: boolean;
}

/** Kernel ids of what a process has open: proc_pid_fdinfo(5). */
export interface KernelObjects {
  readonly programs: readonly number[];
  readonly maps: readonly number[];
}

export interface Footprint {
  readonly programs: number;
  readonly maps: number;
  readonly descriptors: number;
  readonly rss: number;
}

export class Succession {
  readonly #node: Pick<Host, 'namespace'>;
  readonly #options: SuccessionOptions;
  #config: object;
  #agent: Agent;
  #counters: ReadonlyMap<string, number> = new Map();
  readonly #backwards = new Set<string>();
  /** What agents that are gone had open. */
  readonly #had = { programs: new Set<number>(), maps: new Set<number>() };

  private constructor(node: Pick<Host, 'namespace'>, config: object, options: SuccessionOptions) {
    this.#node = node;
    this.#config = config;
    this.#options = options;
    this.#agent = startAgent(node, config, options);
  }

  /** Starts the first one and returns when it serves. */
  static async begin(
    node: Pick<Host, 'namespace'>,
    config: object,
    options: SuccessionOptions = {},
  ): Promise<Succession> {
    const succession = new Succession(node, config, options);
    await succession.#serves();
    return succession;
  }

  /** The one that runs. */
  get agent(): Agent {
    return this.#agent;
  }

  /** Counters that went back, by name and labels. */
  get backwards(): readonly string[] {
    return [...this.#backwards];
  }

  /** Ends the agent and starts the next, of another build perhaps; returns when it serves. */
  async next(signal: 'SIGTERM' | 'SIGKILL', { anew = false, ...options }: NextOptions = {}): Promise<Agent> {
    await this.end(signal);
    await this.#follow(anew, options);
    return this.#agent;
  }

  /** Starts the next, which takes the place of the one that runs; returns when that has ended. */
  async takeOver({ anew = false, ...options }: NextOptions = {}): Promise<void> {
    const before = this.#agent;
    await this.#remember();
    await this.#follow(anew, { ...options, args: [...(options.args ?? []), '--takeover'] });
    await before.waitFor(/INFO handed over/);
    // One that had taken over itself stands by.
    before.kill('SIGTERM');
    await before.ended;
  }

  /** Ends the agent without a successor. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    await this.#remember();
    this.#agent.kill(signal);
    await this.#agent.ended;
  }

  /** Has the agent follow another config, as an editor that renames and SIGHUP do it; returns when it says `done`. */
  async edit(config: object, done: RegExp = FOLLOWED): Promise<void> {
    const { configFile, lines } = this.#agent;
    const from = lines.length;
    this.#config = config;
    writeFileSync(`${configFile}.new`, JSON.stringify(config));
    renameSync(`${configFile}.new`, configFile);
    this.#agent.kill('SIGHUP');
    await this.#agent.waitFor(done, { from });
  }

  /** Reads all counters of listeners, and sees to it that none went back. */
  async count(): Promise<void> {
    const now = new Map([...(await this.#agent.metrics())].filter(([key]) => /_total\{.*listener=/.test(key)));
    for (const [key, before] of this.#counters) {
      // One that is gone with its listener has not gone back.
      if ((now.get(key) ?? (isServed(key, now) ? 0 : before)) < before) this.#backwards.add(key);
    }
    this.#counters = now;
  }

  /** What the agent has open; nothing once it has ended. */
  objects(): KernelObjects {
    const folder = `/proc/${this.#agent.pid}/fdinfo`;
    const texts = (existsSync(folder) ? readdirSync(folder) : []).map((fd) => textOf(`${folder}/${fd}`));
    const ids = (kind: string) =>
      texts.map((text) => Number(new RegExp(`^${kind}_id:\\s+(\\d+)`, 'm').exec(text)?.[1])).filter((id) => id > 0);
    return { programs: [...new Set(ids('prog'))], maps: [...new Set(ids('map'))] };
  }

  /** What agents that are gone had, this one has not, and the kernel still keeps. */
  stale(): KernelObjects {
    const { programs, maps } = this.objects();
    const kept = (kind: string, had: ReadonlySet<number>, has: readonly number[]) => {
      const shown = JSON.parse(this.#node.namespace.run('bpftool', ['-j', kind, 'show'])) as readonly { id: number }[];
      return shown.map(({ id }) => id).filter((id) => had.has(id) && !has.includes(id));
    };
    return { programs: kept('prog', this.#had.programs, programs), maps: kept('map', this.#had.maps, maps) };
  }

  /** How many objects and descriptors the agent has once its connections are over, and its physical memory in KiB. */
  async footprint(): Promise<Footprint> {
    await pause(300);
    const { pid } = this.#agent;
    const { programs, maps } = this.objects();
    const rss = Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]);
    const descriptors = readdirSync(`/proc/${pid}/fd`).length;
    return { programs: programs.length, maps: maps.length, descriptors, rss };
  }

  async #follow(anew: boolean, options: AgentOptions): Promise<void> {
    if (anew) this.#counters = new Map();
    this.#agent = startAgent(this.#node, this.#config, { ...this.#options, ...options });
    await this.#serves();
    await this.count();
  }

  async #remember(): Promise<void> {
    await this.count();
    const { programs, maps } = this.objects();
    for (const id of programs) this.#had.programs.add(id);
    for (const id of maps) this.#had.maps.add(id);
  }

  async #serves(): Promise<void> {
    const { ready = /attached TC eBPF program to ingress/ } = this.#options;
    await this.#agent.waitFor(ready, { timeout: 30_000 });
  }
}

function isServed(key: string, now: ReadonlyMap<string, number>): boolean {
  const [listener] = /listener="[^"]*"/.exec(key) ?? [];
  return [...now.keys()].some((each) => listener !== undefined && each.includes(listener));
}

/** '' of a descriptor that was closed meanwhile. */
function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
