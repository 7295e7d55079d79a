/** The config file that an agent runs by, and whether it still says what the agent does. */
import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { setTicker, type Ticker } from '../clock.ts';
import type { Log } from '../log.ts';
import { type Config, loadConfig, type Surroundings } from './load.ts';

const LOOK_MS = 10_000;

/** Equal for configs that mean the same, whatever their files look like. */
export function digestOf(config: Config): string {
  return createHash('sha256').update(JSON.stringify(config)).digest('hex').slice(0, 16);
}

export class FollowedConfig {
  readonly path: string;
  readonly config: Config;
  readonly digest: string;
  readonly #surroundings: Surroundings;
  /** What the file looked like when it was last read. */
  #stamp: string;
  #deviation: string | undefined;
  #log: Log | undefined;
  #stop = () => {};

  /** Reads the file. Throws ConfigError. */
  constructor(path: string, surroundings: Surroundings = {}) {
    this.path = path;
    this.#surroundings = surroundings;
    // First the looks, so that an edit between the two is found later.
    this.#stamp = stampOf(path);
    this.config = loadConfig(path, surroundings);
    this.digest = digestOf(this.config);
  }

  /** Looks at the file every ten seconds, and says so once when it is edited. */
  watch(log: Log, ticker: Ticker = setTicker): void {
    this.#log = log;
    this.#stop = ticker(LOOK_MS, () => this.deviation());
  }

  /** What is different in the file now, and what to do; undefined while the agent runs what it says. */
  deviation(): string | undefined {
    const stamp = stampOf(this.path);
    if (stamp === this.#stamp) return this.#deviation;
    this.#stamp = stamp;
    const was = this.#deviation;
    this.#deviation = this.#compare();
    if (this.#deviation !== undefined && this.#deviation !== was) this.#log?.warn(`config ${this.#deviation}`);
    if (this.#deviation === undefined && was !== undefined) this.#log?.info('config is followed again');
    return this.#deviation;
  }

  /** For /readyz. */
  remarks(): readonly string[] {
    const deviation = this.deviation();
    return deviation === undefined ? [] : [`config: ${deviation}`];
  }

  close(): void {
    this.#stop();
  }

  #compare(): string | undefined {
    const name = `"${this.path}"`;
    try {
      if (digestOf(loadConfig(this.path, this.#surroundings)) === this.digest) return undefined;
      return `${name} was edited and is not followed: ${RESTART}`;
    } catch (error) {
      // Whoever asks here only wants to know: no error may end an agent that forwards.
      const [first = ''] = String(error instanceof Error ? error.message : error).split('\n');
      return `${name} was edited, is not followed, and no agent would start with it: ${first}`;
    }
  }
}

/** What to do where a config is not followed. */
export const RESTART = 'restart the agent (kubectl -n udp-fanout rollout restart daemonset/udp-fanout)';

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
