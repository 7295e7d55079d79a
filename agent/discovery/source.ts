/** The endpoints of all listeners, each from where its config says. */
import { isDeepStrictEqual } from 'node:util';
import type { Family } from '../address.ts';
import type { EndpointSet, Listener } from '../model.ts';
import { type EndpointSource, endpointSet } from './endpoint-source.ts';
import type { KubernetesDependencies } from './kubernetes.ts';

export interface SourceDependencies extends KubernetesDependencies {
  /** Told why what speaks to Kubernetes could not be loaded; the next `want` tries again. */
  readonly onError: (error: unknown) => void;
}

/** A source that has to load what speaks to Kubernetes, which it does only where a listener wants it. */
export interface LoadingSource extends Omit<EndpointSource, 'start'> {
  /** Returns when it looks. Throws where it cannot. */
  start(onChange: () => void): Promise<void>;
}

/** The endpoints of listeners of both kinds. Nothing is asked of an API server before `start`. */
export function openSource(dependencies: SourceDependencies): LoadingSource {
  return new Source(dependencies);
}

class Source implements LoadingSource {
  readonly #deps: SourceDependencies;
  /** The sets of listeners whose endpoints the config lists, by their names. */
  #fixed: ReadonlyMap<string, EndpointSet> = new Map();
  #wanted: readonly Listener[] = [];
  #kubernetes: EndpointSource | undefined;
  #loading: Promise<void> | undefined;
  #onChange: (() => void) | undefined;
  #closed = false;

  constructor(dependencies: SourceDependencies) {
    this.#deps = dependencies;
  }

  want(listeners: readonly Listener[]): void {
    const lists = listeners.flatMap(({ name, endpoints }) =>
      endpoints.kind === 'static' ? [[name, endpoints.list] as const] : [],
    );
    this.#fixed = new Map(
      lists.map(([name, list]) => {
        const known = this.#fixed.get(name);
        return [name, isDeepStrictEqual(known?.list, list) ? known! : endpointSet(list)];
      }),
    );
    this.#wanted = listeners.filter(({ endpoints }) => endpoints.kind === 'kubernetes');
    this.#kubernetes?.want(this.#wanted);
    // Whoever starts hears of a failure; later on there is nobody but the log.
    if (this.#onChange) this.#load().catch(this.#deps.onError);
  }

  endpoints(listener: Listener): EndpointSet | undefined {
    return listener.endpoints.kind === 'static'
      ? this.#fixed.get(listener.name)
      : this.#kubernetes?.endpoints(listener);
  }

  nodeAddress(name: string, family: Family): string | undefined {
    return this.#kubernetes?.nodeAddress(name, family);
  }

  get nodesVersion(): number {
    return this.#kubernetes?.nodesVersion ?? 0;
  }

  async start(onChange: () => void): Promise<void> {
    this.#onChange = onChange;
    await this.#load();
  }

  status(): ReturnType<EndpointSource['status']> {
    return this.#kubernetes?.status() ?? [];
  }

  close(): void {
    this.#closed = true;
    this.#kubernetes?.close();
  }

  async #load(): Promise<void> {
    if (this.#kubernetes || this.#wanted.length === 0) return;
    this.#loading ??= import('./kubernetes.ts')
      .then(({ openKubernetesSource }) => {
        if (this.#closed) return;
        this.#kubernetes = openKubernetesSource(this.#deps);
        this.#kubernetes.want(this.#wanted);
        this.#kubernetes.start(this.#onChange!);
      })
      .finally(() => (this.#loading = undefined));
    await this.#loading;
  }
}
