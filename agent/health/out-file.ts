/**
 * Which downstreams are out, in a file for the next agent: what the kernel path leaves in its tables, worker threads leave
 * nowhere. It is of this boot and of a network namespace, and is written while the agent runs, as no kill is announced.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { uptime } from 'node:os';
import { dirname } from 'node:path';
import { formatAddress, type SocketAddress } from '../address.ts';
import type { Log } from '../log.ts';
import type { Listener } from '../model.ts';
import type { EndpointHealth } from './health.ts';

/** What has been out for longer than nobody looked may be well again. */
const LASTS_S = 600;
/** So often it is said that what is out still is. */
const RENEWED_S = 60;

/** The file. */
interface Outs {
  /** Of /proc/sys/kernel/random/boot_id. */
  readonly boot: string;
  /** Seconds since boot. */
  readonly at: number;
  /** `listener address` of each. */
  readonly out: readonly string[];
}

/** Whose endpoints it is about. */
interface Known {
  endpoints(): readonly Pick<EndpointHealth, 'listener' | 'endpoint' | 'healthy'>[];
}

export interface OutFileOptions {
  readonly log: Log;
  readonly path?: string;
  /** Seconds since boot. */
  readonly now?: () => number;
}

export class OutFile {
  readonly #log: Log;
  readonly #path: string;
  readonly #now: () => number;
  /** What the agent before this one has left. */
  readonly #left: ReadonlySet<string>;
  #written: readonly string[];
  #writtenAt: number;
  #isStale = false;
  #isRefused = false;

  constructor({ log, path = defaultPath(), now = uptime }: OutFileOptions) {
    this.#log = log;
    this.#path = path;
    this.#now = now;
    this.#written = read(path, now());
    this.#writtenAt = now();
    this.#left = new Set(this.#written);
  }

  /** Whether the downstream was out when the agent before this one was last there. */
  has({ name }: Listener, address: SocketAddress): boolean {
    return this.#left.has(`${name} ${formatAddress(address)}`);
  }

  /** Others are in use than before. */
  changed(): void {
    this.#isStale = true;
  }

  /** Writes what is out where that is news; of a listener whose endpoints are not known yet, what was. */
  write(health: Known): void {
    const isDue = this.#written.length > 0 && this.#now() >= this.#writtenAt + RENEWED_S;
    if (this.#isRefused || !(this.#isStale || isDue)) return;
    this.#isStale = false;
    const endpoints = health.endpoints();
    const known = new Set(endpoints.map(({ listener }) => listener.name));
    const out = endpoints
      .filter(({ healthy, endpoint }) => !healthy && !endpoint.unready)
      .map(({ listener, endpoint }) => `${listener.name} ${formatAddress(endpoint.address)}`)
      .concat(this.#written.filter((one) => !known.has(one.slice(0, one.lastIndexOf(' ')))));
    if (!isDue && out.join() === this.#written.join()) return;
    try {
      this.#replace(out);
      this.#written = out;
      this.#writtenAt = this.#now();
    } catch (error) {
      this.#isRefused = true;
      this.#log.info('downstreams that are out will not be known after a restart in mode userspace', {
        error: (error as Error).message,
      });
    }
  }

  /** Whole or not at all. */
  #replace(out: readonly string[]): void {
    if (out.length === 0) {
      rmSync(this.#path, { force: true });
      return;
    }
    makeFolder(dirname(this.#path));
    const outs: Outs = { boot: bootId(), at: this.#now(), out };
    const draft = `${this.#path}.new`;
    writeFileSync(draft, JSON.stringify(outs), { mode: 0o600 });
    renameSync(draft, this.#path);
  }
}

/** In the folder that systemd gives a service (systemd.exec(5), RuntimeDirectory=); agents of other namespaces may be there. */
function defaultPath(): string {
  const [folder = ''] = (process.env.RUNTIME_DIRECTORY ?? '').split(':');
  return `${folder || '/run/udp-fanout'}/out-${statSync('/proc/self/ns/net').ino}.json`;
}

/** One level: where a folder above it is missing, it is not ours to make. */
function makeFolder(path: string): void {
  try {
    mkdirSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

/** Nothing where there is none, or none that still holds. */
function read(path: string, now: number): readonly string[] {
  try {
    const { boot, at, out } = JSON.parse(readFileSync(path, 'utf8')) as Outs;
    const holds = boot === bootId() && now - at < LASTS_S;
    return holds && Array.isArray(out) ? out.map(String) : [];
  } catch {
    return [];
  }
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}
