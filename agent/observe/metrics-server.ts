/** Metrics over HTTP where and while the config asks for them. */
import { isDeepStrictEqual } from 'node:util';
import { formatAddress } from '../address.ts';
import type { Config } from '../config/load.ts';
import type { Log } from '../log.ts';
import type { MetricSources } from './metrics.ts';
import type { Server, ServerOptions } from './server.ts';

type MetricsConfig = Config['metrics'];

export interface MetricsServerDependencies extends Pick<ServerOptions, 'unready' | 'remarks'> {
  readonly log: Log;
  readonly sources: MetricSources;
}

export class MetricsServer {
  readonly #deps: MetricsServerDependencies;
  #config: MetricsConfig | undefined;
  #server: Server | undefined;
  #registry: ServerOptions['registry'] | undefined;
  /** Why it does not serve where the config says. */
  #failure: string | undefined;

  constructor(dependencies: MetricsServerDependencies) {
    this.#deps = dependencies;
  }

  /** Serves as the config says. Throws where that is not to be had; then it serves as before. */
  async follow(config: MetricsConfig): Promise<void> {
    if (isDeepStrictEqual(config, this.#config) && this.#failure === undefined) return;
    const before = this.#config;
    // The new address may be the old port on another interface, or on all of them.
    await this.#server?.close();
    this.#server = undefined;
    try {
      await this.#open(config);
      this.#failure = undefined;
      this.#config = config;
    } catch (error) {
      this.#failure = (error as Error).message;
      if (before) await this.#open(before);
      throw error;
    }
  }

  remarks(): readonly string[] {
    return this.#failure === undefined ? [] : [`metrics: ${this.#failure}`];
  }

  async close(): Promise<void> {
    await this.#server?.close();
  }

  async #open(config: MetricsConfig): Promise<void> {
    if (!config.enabled) return;
    const { log, sources, unready, remarks } = this.#deps;
    // Loaded only where the config asks for it: it is a quarter of the agent's memory.
    const [{ openMetrics }, { openServer }] = await Promise.all([import('./metrics.ts'), import('./server.ts')]);
    this.#registry ??= openMetrics(sources);
    this.#server = await openServer({ ...config, registry: this.#registry, unready, remarks });
    log.info('serving metrics', { bind: formatAddress(config.bind), path: config.path });
  }
}
