/** The real agent in a namespace: started on a config, awaited by its log lines, asked over HTTP, stopped or killed. */
import type { ChildProcess } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { books } from './books.ts';
import type { Host } from './host.ts';
import type { Namespace } from './namespace.ts';
import { patient } from './patience.ts';
import { parseAddress } from './sockaddr.ts';

/** What an agent says that takes over the program of one before it. */
const GOES_ON = /going on where an agent before this one has stopped|handing over to another agent/;
const PROGRAM = join(import.meta.dirname, '../dist/udp-fanout.js');

export interface AgentOptions {
  /** Further arguments: `['--log-format', 'json']`. */
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Another build than this tree's. */
  readonly program?: string;
  /** A command that runs it: `['setpriv', '--bounding-set', '-all,+net_admin']`. */
  readonly under?: readonly string[];
  /** Where `get` and `metrics` find its HTTP server; `127.0.0.1:9090`. */
  readonly http?: string;
}

export interface Ending {
  /** The exit code, or null if a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Milliseconds from the request, or for `ended` from the start. */
  readonly ms: number;
}

/** Starts the agent on a node with a config, given as YAML or as the object that the YAML stands for. */
export function startAgent(
  { namespace }: Pick<Host, 'namespace'>,
  config: string | object,
  options: AgentOptions = {},
): Agent {
  const file = join(mkdtempSync(join(namespace.directory, 'agent-')), 'config.yaml');
  // JSON is YAML too.
  writeFileSync(file, typeof config === 'string' ? config : JSON.stringify(config, null, 2));
  return new Agent(namespace, file, options);
}

/** An agent that was started, whether it still runs or not. */
export class Agent {
  /** What it has written to standard output and standard error, line by line. */
  readonly lines: string[] = [];
  /** Rewrite it to change the config of the running agent. */
  readonly configFile: string;
  readonly pid: number;
  /** Resolves when it has ended, for whatever reason, and its last line is in `lines`. */
  readonly ended: Promise<Ending>;
  /** Which host's agent it is. */
  readonly host: string;
  readonly #child: ChildProcess;
  /** Emits `news` when there is a line more, or no more to come. */
  readonly #activity = new EventEmitter();
  hasEnded = false;
  #lastMetrics: ReadonlyMap<string, number> | undefined;
  readonly #namespace: Namespace;
  readonly #http: string;

  constructor(namespace: Namespace, configFile: string, options: AgentOptions) {
    const { program = PROGRAM, args = [], env = {}, under = [], http = '127.0.0.1:9090' } = options;
    this.configFile = configFile;
    this.#namespace = namespace;
    this.host = namespace.path;
    this.#http = http;
    const started = performance.now();
    // A test runner's settings are not for the agent.
    const { NODE_OPTIONS: _, NODE_ENV: __, ...inherited } = process.env;
    const [command = '', ...rest] = [...under, process.execPath, program, '--config', configFile, ...args];
    this.#child = namespace.spawn(command, rest, {
      // What it leaves for the next agent of this namespace goes with the namespace.
      env: { ...inherited, RUNTIME_DIRECTORY: join(namespace.directory, 'run'), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.pid = this.#child.pid!;
    books()?.agents.set(this, undefined);
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      createInterface({ input: stream }).on('line', (line) => {
        this.lines.push(line);
        this.#activity.emit('news');
      });
    }
    this.ended = once(this.#child, 'close').then(([code, signal]) => {
      this.hasEnded = true;
      this.#activity.emit('news');
      return { code, signal, ms: performance.now() - started };
    });
  }

  /**
   * Resolves with the first log line from number `from` on that matches; throws with the log if none comes within
   * `timeout` ms of an ordinary machine.
   */
  async waitFor(pattern: RegExp, { timeout = 5000, from = 0 } = {}): Promise<string> {
    const limit = patient(timeout);
    const deadline = AbortSignal.timeout(limit);
    for (;;) {
      const found = this.lines.slice(from).find((line) => pattern.test(line));
      if (found !== undefined) return found;
      const why = deadline.aborted ? `no line in ${limit} ms` : this.hasEnded ? 'the agent ended' : undefined;
      if (why) throw new Error(`${pattern}: ${why}; its log:\n${this.lines.join('\n')}`);
      await once(this.#activity, 'news', { signal: deadline }).catch(() => {});
    }
  }

  /** Sends SIGTERM and waits; throws with the log, and kills it, if it does not end within `timeout` ms. */
  async stop(timeout = patient(5000)): Promise<Ending> {
    if (books()?.agents.has(this)) await this.account();
    const started = performance.now();
    const giveUp = setTimeout(() => this.kill('SIGKILL'), timeout);
    this.kill('SIGTERM');
    const { code, signal } = await this.ended;
    clearTimeout(giveUp);
    if (signal === 'SIGKILL')
      throw new Error(`the agent did not stop in ${timeout} ms; its log:\n${this.lines.join('\n')}`);
    return { code, signal, ms: performance.now() - started };
  }

  /** Sends a signal and returns at once; `ended` tells the rest. */
  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Asks its HTTP server from inside the namespace. */
  async get(path: string): Promise<{ status: number; type: string; body: string }> {
    const { port } = parseAddress(this.#http);
    const asked = request({
      path,
      port,
      createConnection: () => this.#namespace.connect(this.#http),
    }).end();
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    const chunks = await response.toArray();
    const type = response.headers['content-type'] ?? '';
    return { status: response.statusCode!, type, body: Buffer.concat(chunks).toString('utf8') };
  }

  /** Whether its counters go on where an agent before it has left them, or another one's go on where it has. */
  get goesOn(): boolean {
    return this.lines.some((line) => GOES_ON.test(line));
  }

  /** Whether it is the agent that answers here: one that has handed over is not, unless it has begun anew since. */
  get #answers(): boolean {
    const last = (what: RegExp) => this.lines.findLastIndex((line) => what.test(line));
    return !this.hasEnded && last(/handing over to another agent/) <= last(/starting udp-fanout/);
  }

  /** Its metrics now, or as it was asked to stop; undefined where there are none to be had. */
  async account(): Promise<ReadonlyMap<string, number> | undefined> {
    if (this.#answers) this.#lastMetrics = (await soon(this.metrics())) ?? this.#lastMetrics;
    return this.#lastMetrics;
  }

  /** Its metrics, each by name and labels as written: `udp_fanout_packets_dropped_total{reason="ttl"}`. */
  async metrics(): Promise<Map<string, number>> {
    const { body } = await this.get('/metrics');
    const samples = body.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    return new Map(
      samples.map((line) => {
        const end = line.lastIndexOf(' ');
        return [line.slice(0, end), Number(line.slice(end + 1))];
      }),
    );
  }
}

/** Undefined where there is no answer, as of an agent that hangs or has no HTTP server. */
async function soon<T>(answer: Promise<T>): Promise<T | undefined> {
  const late = AbortSignal.timeout(patient(1000));
  return Promise.race([answer.catch(() => undefined), once(late, 'abort').then(() => undefined)]);
}
