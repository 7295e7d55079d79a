/**
 * The addresses of the nodes that endpoints live on. Each is asked for by its name, one after the other, and again after
 * hours: they hardly ever change, and a watch of all nodes would tell every agent of every kubelet's heartbeat. A node that
 * is replaced loses its endpoints meanwhile, and is forgotten and asked for anew.
 */
import { type Family, parseIp } from '../address.ts';
import type { Timer } from '../clock.ts';
import type { Log } from '../log.ts';
import { LogLimiter } from '../log-limit.ts';
import type { NodeApi } from './api.ts';
import { Backoff } from './backoff.ts';
import { ApiFailure } from './failure.ts';

export interface NodeAddressesDependencies {
  readonly api: NodeApi;
  readonly log: Log;
  readonly timer: Timer;
  /** Milliseconds that only grow. */
  readonly now: () => number;
  readonly random: () => number;
  /** `addressOf` may answer differently from now on. */
  readonly onChange: () => void;
}

type Addresses = Readonly<Partial<Record<Family, string>>>;

interface Known {
  readonly addresses: Addresses;
  /** When to ask again. */
  readonly until: number;
}

export const TIMES = {
  answerMs: 30_000,
  /** Another time for each agent. */
  refreshMs: { least: 3_600_000, spread: 3_600_000 },
  /** A thousand nodes that are asked for at a start make few passes of it. */
  tellMs: 500,
} as const;

const TROUBLE = 'nodes';
const INSTEAD = 'the gateways on the way to them stand in';

export class NodeAddresses {
  readonly #deps: NodeAddressesDependencies;
  readonly #backoff: Backoff;
  readonly #alerts: LogLimiter;
  readonly #known = new Map<string, Known>();
  #wanted: ReadonlySet<string> = new Set();
  #version = 0;
  #isForbidden = false;
  #pauseUntil = 0;
  #request: AbortController | undefined;
  #cancelNext = () => {};
  #cancelTell: (() => void) | undefined;
  #closed = false;

  constructor(dependencies: NodeAddressesDependencies) {
    this.#deps = dependencies;
    this.#backoff = new Backoff(dependencies);
    this.#alerts = new LogLimiter(dependencies);
  }

  get version(): number {
    return this.#version;
  }

  /** These nodes, and no other ones, from now on. */
  want(names: ReadonlySet<string>): void {
    this.#wanted = names;
    for (const name of this.#known.keys()) if (!names.has(name)) this.#known.delete(name);
    if (!this.#request) this.#next();
  }

  addressOf(name: string, family: Family): string | undefined {
    return this.#known.get(name)?.addresses[family];
  }

  close(): void {
    this.#closed = true;
    this.#cancelNext();
    this.#cancelTell?.();
    this.#request?.abort();
    this.#alerts.close();
  }

  /** Asks for the first that is due, or waits until one is. */
  #next(): void {
    this.#cancelNext();
    if (this.#closed || this.#wanted.size === 0) return;
    const now = this.#deps.now();
    let next = { name: '', at: Number.POSITIVE_INFINITY };
    for (const name of this.#wanted) {
      const at = Math.max(this.#known.get(name)?.until ?? now, this.#pauseUntil);
      if (at < next.at) next = { name, at };
    }
    if (next.at > now) this.#cancelNext = this.#deps.timer(next.at - now, () => this.#next());
    else void this.#ask(next.name);
  }

  async #ask(name: string): Promise<void> {
    const { api, timer } = this.#deps;
    const request = new AbortController();
    const silence = new ApiFailure('timeout', `no answer for ${TIMES.answerMs / 1000} s`);
    const cancel = timer(TIMES.answerMs, () => request.abort(silence));
    this.#request = request;
    try {
      this.#learn(name, readAddresses(await api.node(name, request.signal)));
      this.#backoff.steady();
      this.#alerts.resolve(TROUBLE, { message: 'Nodes answer again' });
    } catch (error) {
      if (!this.#closed) this.#pauseUntil = this.#deps.now() + this.#failed(name, error);
    }
    cancel();
    this.#request = undefined;
    this.#next();
  }

  #learn(name: string, addresses: Addresses): void {
    if (!this.#wanted.has(name)) return;
    const before = this.#known.get(name)?.addresses;
    const { least, spread } = TIMES.refreshMs;
    this.#known.set(name, { addresses, until: this.#deps.now() + least + this.#deps.random() * spread });
    if (before?.[4] === addresses[4] && before?.[6] === addresses[6]) return;
    this.#version++;
    this.#cancelTell ??= this.#deps.timer(TIMES.tellMs, () => {
      this.#cancelTell = undefined;
      this.#deps.onChange();
    });
  }

  /** How long to wait before the next question. What is known stays in use. */
  #failed(name: string, error: unknown): number {
    const { log } = this.#deps;
    const failure = error instanceof ApiFailure ? error : new ApiFailure('server_error', String(error));
    switch (failure.reason) {
      case 'forbidden':
        // Nobody has to give the right, so nothing is wrong: said once, and tried again when the next is due.
        if (!this.#isForbidden) log.info(`Nodes are not ours to get (${failure.message}): ${INSTEAD}`);
        this.#isForbidden = true;
        return TIMES.refreshMs.least;
      case 'not_found':
        this.#learn(name, {});
        return 0;
      default:
        this.#alerts.raise(TROUBLE, {
          message: `failed to get Node "${name}": ${failure.message}; ${INSTEAD}`,
          level: 'info',
          cause: failure.reason,
        });
        return this.#backoff.afterFailure(failure.retryAfterMs);
    }
  }
}

/** Of a Node (v1): the first InternalIP of each family, which is the one that its kubelet listens on. */
function readAddresses(node: unknown): Addresses {
  const { status } = (node ?? {}) as { status?: { addresses?: unknown } | null };
  const all = Array.isArray(status?.addresses) ? (status.addresses as readonly unknown[]) : [];
  const found: Partial<Record<Family, string>> = {};
  for (const entry of all) {
    const { type, address } = (entry ?? {}) as { type?: unknown; address?: unknown };
    const ip = type === 'InternalIP' && typeof address === 'string' ? parseIp(address) : undefined;
    if (ip) found[ip.family] ??= ip.ip;
  }
  return found;
}
