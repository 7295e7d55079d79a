/**
 * Which downstreams are out, in a file for the next agent: what the kernel path leaves in its tables, worker threads leave
 * nowhere. It is of this boot and of a network namespace, and is written while the agent runs, as no kill is announced.
 */
import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { uptime } from 'node:os';
import { dirname } from 'node:path';
import { formatAddress, type SocketAddress } from '../address.ts';
import { setTimer, type Timer } from '../clock.ts';
import type { Log } from '../log.ts';
import { LogLimiter } from '../log-limit.ts';
import type { Listener } from '../model.ts';
import type { EndpointHealth } from './health.ts';

/** What has been out for longer than nobody looked may be well again. */
const LASTS_S = 600;
/** So often it is said that what is out still is; and so often is tried what could not be written. */
const RENEWED_S = 60;
/** More than any agent writes. */
const MOST_BYTES = 4 << 20;

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
  /** Of the config. */
  listeners(): readonly Pick<Listener, 'name'>[];
  endpoints(): readonly Pick<EndpointHealth, 'listener' | 'endpoint' | 'healthy'>[];
}

export interface OutFileOptions {
  readonly log: Log;
  readonly path?: string;
  /** Seconds since boot. */
  readonly now?: () => number;
  readonly timer?: Timer;
}

export class OutFile {
  readonly #path: string;
  readonly #now: () => number;
  readonly #alerts: LogLimiter;
  readonly #openedAt: number;
  /** What the agent before this one has left to listeners whose endpoints are not known yet. */
  #left: ReadonlySet<string>;
  /** What is in the file. */
  #written: readonly string[];
  #writtenAt: number;
  /** Listeners of the config without endpoints, by name. */
  #waitingSince: ReadonlyMap<string, number> = new Map();
  #isStale = false;
  /** After a write that failed; the file is as it was. */
  #retryAt = 0;

  constructor({ log, path = defaultPath(), now = uptime, timer = setTimer }: OutFileOptions) {
    this.#path = path;
    this.#now = now;
    this.#alerts = new LogLimiter({ log, timer, now: () => now() * 1000 });
    this.#openedAt = now();
    this.#written = read(path, now());
    this.#writtenAt = now();
    this.#left = new Set(this.#written);
  }

  /**
   * Whether the downstream was out when the agent before this one was last there. This one knows better as soon as it has
   * the listener's endpoints, and an address may be another pod's by and by.
   */
  has({ name }: Listener, address: SocketAddress): boolean {
    return this.#now() < this.#openedAt + LASTS_S && this.#left.has(entryOf(name, address));
  }

  /** Others are in use than before. */
  changed(): void {
    this.#isStale = true;
  }

  /** Writes what is out where that is news; of a listener whose endpoints are not known yet, what was. */
  write(health: Known): void {
    const now = this.#now();
    const isDue = this.#written.length > 0 && now >= this.#writtenAt + RENEWED_S;
    if (now < this.#retryAt || !(this.#isStale || isDue)) return;
    const out = this.#outOf(health);
    if (isDue || out.join() !== this.#written.join()) this.#try(out);
    else this.#isStale = false;
  }

  /** For the last time. */
  close(health: Known): void {
    this.write(health);
    this.#alerts.close();
  }

  #outOf(health: Known): readonly string[] {
    const endpoints = health.endpoints();
    const known = new Set(endpoints.map(({ listener }) => listener.name));
    const now = this.#now();
    const waiting = health.listeners().flatMap(({ name }) => (known.has(name) ? [] : [name]));
    this.#waitingSince = new Map(waiting.map((name) => [name, this.#waitingSince.get(name) ?? now]));
    const lasts = (since = Number.NEGATIVE_INFINITY) => now - since < LASTS_S;
    const carried = (entries: Iterable<string>) =>
      [...entries].filter((entry) => lasts(this.#waitingSince.get(listenerOf(entry))));
    this.#left = new Set(carried(this.#left));
    return endpoints
      .filter(({ healthy, endpoint }) => !healthy && !endpoint.unready)
      .map(({ listener, endpoint }) => entryOf(listener.name, endpoint.address))
      .concat(carried(this.#written));
  }

  #try(out: readonly string[]): void {
    try {
      this.#replace(out);
      this.#written = out;
      this.#writtenAt = this.#now();
      this.#isStale = false;
      this.#alerts.resolve(this.#path, { message: 'downstreams that are out will be known after a restart again' });
    } catch (error) {
      this.#retryAt = this.#now() + RENEWED_S;
      this.#alerts.raise(this.#path, {
        level: 'info',
        message: 'downstreams that are out will not be known after a restart in mode userspace',
        fields: { error: (error as Error).message },
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
    // A link that somebody has put there is not followed.
    rmSync(draft, { force: true });
    writeFileSync(draft, JSON.stringify(outs), { mode: 0o600, flag: 'wx' });
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

function entryOf(listener: string, address: SocketAddress): string {
  return `${listener} ${formatAddress(address)}`;
}

function listenerOf(entry: string): string {
  return entry.slice(0, entry.lastIndexOf(' '));
}

/** Nothing where there is none, or none that still holds. */
function read(path: string, now: number): readonly string[] {
  try {
    const { boot, at, out } = JSON.parse(readRegular(path)) as Outs;
    const age = now - at;
    const holds = boot === bootId() && age >= 0 && age < LASTS_S;
    return holds && Array.isArray(out) ? out.map(String) : [];
  } catch {
    return [];
  }
}

/** The text of a file that may be an agent's: nothing that blocks, leads elsewhere or is without end. Throws. */
function readRegular(path: string): string {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  const fd = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() || stat.size > MOST_BYTES) throw new Error(`"${path}" is no file of an agent's`);
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}
