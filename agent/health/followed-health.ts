/** Health as the config has it at the moment: another config makes another Health, which begins by what the old one knew. */
import { isDeepStrictEqual } from 'node:util';
import { formatAddress } from '../address.ts';
import type { Health as HealthConfig } from '../config/load.ts';
import type { EndpointSet, Listener } from '../model.ts';
import type { EndpointHealth } from './health.ts';
import { type OpenedHealth, type OpenHealthDependencies, openHealth } from './open-health.ts';
import { Statistics } from './statistics.ts';

export class FollowedHealth implements OpenedHealth {
  /** Of all of them together. */
  readonly statistics = new Statistics();
  readonly #deps: Omit<OpenHealthDependencies, 'config' | 'statistics'>;
  #config: HealthConfig;
  #health: OpenedHealth;
  #onChange: (() => void) | undefined;

  private constructor(deps: Omit<OpenHealthDependencies, 'statistics'>, health: OpenedHealth, statistics: Statistics) {
    this.#deps = deps;
    this.#config = deps.config;
    this.#health = health;
    this.statistics = statistics;
  }

  static async open(dependencies: Omit<OpenHealthDependencies, 'statistics'>): Promise<FollowedHealth> {
    const statistics = new Statistics();
    return new FollowedHealth(dependencies, await openHealth({ ...dependencies, statistics }), statistics);
  }

  /** Goes over to another config; what was down stays so until it has answered. */
  async follow(config: HealthConfig): Promise<void> {
    if (isDeepStrictEqual(config, this.#config)) return;
    this.#config = config;
    const before = this.#health;
    const endpoints = before.endpoints();
    const known = new Set(endpoints.map(({ listener }) => listener.name));
    const down = new Set(endpoints.flatMap((one) => (one.healthy ? [] : [keyOf(one)])));
    const { statistics } = this;
    const wasOut: OpenHealthDependencies['wasOut'] = (listener, address) =>
      known.has(listener.name)
        ? down.has(`${listener.name} ${formatAddress(address)}`)
        : (this.#deps.wasOut?.(listener, address) ?? false);
    const next = await openHealth({ ...this.#deps, config, statistics, wasOut });
    before.close();
    next.keep(before.listeners());
    if (this.#onChange) next.start(this.#onChange);
    this.#health = next;
    this.#onChange?.();
  }

  start(onChange: () => void): void {
    this.#onChange = onChange;
    this.#health.start(onChange);
  }

  keep(listeners: readonly Listener[]): void {
    this.#health.keep(listeners);
  }

  select(listener: Listener, endpoints: EndpointSet): ReturnType<OpenedHealth['select']> {
    return this.#health.select(listener, endpoints);
  }

  listeners(): readonly Listener[] {
    return this.#health.listeners();
  }

  endpoints(): readonly EndpointHealth[] {
    return this.#health.endpoints();
  }

  failsOpen(listener: Listener): boolean {
    return this.#health.failsOpen(listener);
  }

  isLastResort(listener: Listener): boolean {
    return this.#health.isLastResort(listener);
  }

  remarks(): readonly string[] {
    return this.#health.remarks();
  }

  close(): void {
    this.#health.close();
  }
}

function keyOf({ listener, endpoint }: EndpointHealth): string {
  return `${listener.name} ${formatAddress(endpoint.address)}`;
}
