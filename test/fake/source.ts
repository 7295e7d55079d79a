/** A source of endpoints that a test tells what there is: another list is another version. */
import type { EndpointSource } from '../../agent/discovery/endpoint-source.ts';
import { endpointSet } from '../../agent/discovery/endpoint-source.ts';
import type { Endpoint, EndpointSet, Listener } from '../../agent/model.ts';

export class FakeSource implements Pick<EndpointSource, 'want' | 'endpoints'> {
  /** By listener's name; of one that is absent nothing is known. */
  readonly lists: Map<string, readonly Endpoint[]>;
  wanted: readonly Listener[] = [];
  readonly #sets = new Map<string, EndpointSet>();

  constructor(lists: Iterable<readonly [string, readonly Endpoint[]]> = []) {
    this.lists = new Map(lists);
  }

  want(listeners: readonly Listener[]): void {
    this.wanted = listeners;
  }

  endpoints({ name }: Listener): EndpointSet | undefined {
    const list = this.lists.get(name);
    if (!list || !this.wanted.some((one) => one.name === name)) return undefined;
    const known = this.#sets.get(name);
    const set = known?.list === list ? known : endpointSet(list);
    this.#sets.set(name, set);
    return set;
  }
}
