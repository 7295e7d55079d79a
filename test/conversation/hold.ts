/** Holds a conversation with an API server, be it the fake or a real one, and says where it went otherwise. */
import { setTimeout as sleep } from 'node:timers/promises';
import { formatAddress } from '../../agent/address.ts';
import { openSliceApi } from '../../agent/discovery/api.ts';
import type { Credentials } from '../../agent/discovery/credentials.ts';
import type { EndpointSource } from '../../agent/discovery/endpoint-source.ts';
import { openKubernetesSource } from '../../agent/discovery/kubernetes.ts';
import type { Listener } from '../../agent/model.ts';
import { patient } from '../../lab/patience.ts';
import { aListener, aLog } from '../fake/words.ts';
import { Client, type Watch } from './client.ts';
import { type Conversation, difference, type Exchange, filled, filledAll, type Names } from './format.ts';

const PATIENCE_MS = patient(5000);

interface Followed {
  readonly source: EndpointSource;
  readonly listener: Listener;
}

/** What a server cannot do yet, or in its version of the API never: no fault. */
class Skipped extends Error {
  override readonly name = 'Skipped';
}

/**
 * Runs all exchanges in a namespace that exists; throws with the number of the first that went otherwise. Returns why the
 * rest of them was left out, where this server cannot be held to it; undefined where all was held.
 */
export async function hold(
  { name, versions, exchanges }: Conversation,
  credentials: Credentials,
  namespace: string,
): Promise<string | undefined> {
  const version = await servedVersion(credentials);
  if (versions && !versions.includes(version)) return `${version} is served, it takes ${versions.join(' or ')}`;
  const talk = new Talk(credentials, { namespace, version });
  try {
    for (const [at, exchange] of exchanges.entries()) {
      const wrong = await talk.take(exchange).catch((error: Error) => {
        if (error instanceof Skipped) throw error;
        return error.message;
      });
      if (wrong !== undefined) throw new Error(`${name}, exchange ${at + 1}: ${wrong}`);
    }
    return undefined;
  } catch (error) {
    if (error instanceof Skipped) return error.message;
    throw error;
  } finally {
    talk.close();
  }
}

/** The newest version of discovery.k8s.io that the server has: v1, or v1beta1 before Kubernetes 1.21. */
export async function servedVersion(credentials: Credentials): Promise<string> {
  const { status, body } = await new Client(credentials).ask('GET', '/apis/discovery.k8s.io');
  const { versions = [] } = body as { versions?: readonly { readonly version: string }[] };
  const served = versions.map(({ version }) => version);
  const newest = ['v1', 'v1beta1'].find((version) => served.includes(version));
  if (newest === undefined) throw new Error(`no discovery.k8s.io/v1 or v1beta1: ${status} ${JSON.stringify(body)}`);
  return newest;
}

/** Makes a namespace of its own, gives it to `work`, and removes it with all that is in it. */
export async function inFreshNamespace(credentials: Credentials, work: (namespace: string) => Promise<void>) {
  const client = new Client(credentials);
  const name = `udp-fanout-test-${Math.random().toString(36).slice(2, 8)}`;
  const body = { apiVersion: 'v1', kind: 'Namespace', metadata: { name } };
  const { status, body: answer } = await client.ask('POST', '/api/v1/namespaces', body);
  if (status !== 201) throw new Error(`failed to create namespace "${name}": ${status} ${JSON.stringify(answer)}`);
  try {
    await work(name);
  } finally {
    await client.ask('DELETE', `/api/v1/namespaces/${name}`);
  }
}

class Talk {
  readonly #credentials: Credentials;
  readonly #client: Client;
  readonly #names: Names;
  readonly #watches = new Map<string, Watch>();
  readonly #followed = new Map<string, Followed>();

  constructor(credentials: Credentials, names: Readonly<Record<string, string>>) {
    this.#credentials = credentials;
    this.#client = new Client(credentials);
    this.#names = new Map(Object.entries(names));
  }

  /** What is wrong with the answer; undefined if nothing. */
  async take(exchange: Exchange): Promise<string | undefined> {
    if ('endpoints' in exchange) return this.#expectEndpoints(exchange.service, exchange.endpoints);
    if ('event' in exchange) return this.#expectEvent(exchange);
    const [method = '', path = ''] = filled(exchange.request, this.#names).split(' ');
    if ('watch' in exchange) {
      this.#watches.set(exchange.watch, await this.#client.watch(path));
      return undefined;
    }
    const body = exchange.body === undefined ? undefined : filledAll(exchange.body, this.#names);
    const answer = await this.#client.ask(method, path, body, exchange.token);
    if (answer.status !== exchange.status) return `${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`;
    return exchange.answer === undefined ? undefined : difference(answer.body, exchange.answer, this.#names);
  }

  close(): void {
    for (const watch of this.#watches.values()) watch.close();
    for (const { source } of this.#followed.values()) source.close();
  }

  async #expectEvent({ event: watch, is, orSkip }: Extract<Exchange, { event: string }>): Promise<string | undefined> {
    const event = await this.#watches
      .get(watch)!
      .next(PATIENCE_MS)
      .catch((error: Error) => error);
    if (orSkip !== undefined && (event as { type?: string }).type !== 'ERROR') throw new Skipped(orSkip);
    if (event instanceof Error) throw event;
    return difference(event, is, this.#names, 'event');
  }

  async #expectEndpoints(service: string, wanted: readonly string[]): Promise<string | undefined> {
    const { source, listener } = this.#followed.get(service) ?? this.#follow(service);
    const found = () => source.endpoints(listener)?.list.map(({ address }) => formatAddress(address));
    for (let waited = 0; waited < PATIENCE_MS; waited += 20) {
      if (String(found()) === String(wanted)) return undefined;
      await sleep(20);
    }
    return `endpoints of ${service}: ${found()}, want ${wanted}`;
  }

  #follow(service: string): Followed {
    const namespace = this.#names.get('namespace')!;
    const listener = aListener({ endpoints: { kind: 'kubernetes', namespace, service, port: 9000 } });
    const api = openSliceApi(this.#credentials);
    const followed = { source: openKubernetesSource({ log: aLog(), api }), listener };
    followed.source.want([listener]);
    followed.source.start(() => {});
    this.#followed.set(service, followed);
    return followed;
  }
}
