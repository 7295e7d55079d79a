/**
 * The config file that an agent runs by. An edit is followed as soon as it is seen, or refused whole: then the agent goes on
 * by what it had, and says so wherever it is asked.
 */
import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { setTicker, type Ticker } from '../clock.ts';
import type { Log } from '../log.ts';
import { type Config, loadConfig, type Surroundings } from './load.ts';

/** A look costs a system call. Notices of the kernel's would not say more: who edits may swap links, or rename. */
const LOOK_MS = 1000;
/** Of a file with more mistakes the log has so many; `check` has them all. */
const MOST_SAID = 20;

/** Equal for configs that mean the same, whatever their files look like. */
export function digestOf(config: Config): string {
  return createHash('sha256').update(JSON.stringify(config)).digest('hex').slice(0, 16);
}

export interface Follower {
  readonly log: Log;
  readonly ticker?: Ticker;
  /** Seconds since 1970. */
  readonly clock?: () => number;
  /** The file says something else now, and that is what the agent is to do. */
  readonly onChange: (config: Config) => void;
}

export class FollowedConfig {
  readonly path: string;
  readonly #surroundings: Surroundings;
  #config: Config;
  #digest: string;
  /** What the file looked like when it was last read. */
  #stamp: string;
  /** Why what the file says now is not followed. */
  #refusal: string | undefined;
  #follower: Follower | undefined;
  #followedAt = 0;
  #stop = () => {};

  /** Reads the file. Throws ConfigError. */
  constructor(path: string, surroundings: Surroundings = {}) {
    this.path = path;
    this.#surroundings = surroundings;
    // First the looks, so that an edit between the two is found later.
    this.#stamp = stampOf(path);
    this.#config = loadConfig(path, surroundings);
    this.#digest = digestOf(this.#config);
  }

  /** What the agent runs by. */
  get config(): Config {
    return this.#config;
  }

  get digest(): string {
    return this.#digest;
  }

  /** Whether the file is followed as it is, and since when, in seconds since 1970. */
  get reload(): { readonly successful: boolean; readonly at: number } {
    return { successful: this.#refusal === undefined, at: this.#followedAt };
  }

  /** Looks at the file every second, and tells of each edit. */
  watch(follower: Follower): void {
    this.#follower = follower;
    this.#followedAt = this.#now();
    this.#stop = (follower.ticker ?? setTicker)(LOOK_MS, () => this.look());
  }

  /** Reads the file if it was edited; `again` reads it in any case. */
  look(again = false): void {
    const stamp = stampOf(this.path);
    if (stamp === this.#stamp && !again) return;
    this.#stamp = stamp;
    const wasRefused = this.#refusal !== undefined;
    const config = this.#read();
    if (!config) return;
    const { log, onChange } = this.#follower!;
    this.#followedAt = this.#now();
    const digest = digestOf(config);
    if (digest !== this.#digest) {
      this.#config = config;
      this.#digest = digest;
      log.info('following the edited config', { file: this.path, listeners: config.listeners.length });
      onChange(config);
    } else if (wasRefused || again) log.info('config is as it was', { file: this.path });
  }

  /** What is wrong in the file now; undefined while the agent runs by what it says. */
  get deviation(): string | undefined {
    return this.#refusal;
  }

  /** For /readyz. */
  remarks(): readonly string[] {
    return this.#refusal === undefined ? [] : [`config: ${this.#refusal}`];
  }

  close(): void {
    this.#stop();
  }

  #now(): number {
    return (this.#follower?.clock ?? (() => Date.now() / 1000))();
  }

  /** What the file says now; undefined where that is refused. */
  #read(): Config | undefined {
    try {
      const config = loadConfig(this.path, this.#surroundings);
      this.#refusal = undefined;
      return config;
    } catch (error) {
      // No mistake in a file may end an agent that forwards.
      const mistakes = String(error instanceof Error ? error.message : error).split('\n');
      this.#refusal = `"${this.path}" was edited and is refused, the agent goes on by the config it had: ${mistakes[0]}`;
      for (const mistake of mistakes.slice(0, MOST_SAID)) {
        this.#follower?.log.error('the edited config is refused, the one before stays', { mistake });
      }
      return undefined;
    }
  }
}

/**
 * Differs after each edit, also one that swaps a link, as the mount of a ConfigMap does. Where the file cannot be looked
 * at, the error's code: reading it says more.
 */
function stampOf(path: string): string {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
    return [dev, ino, size, mtimeNs, ctimeNs].join(' ');
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code);
  }
}
