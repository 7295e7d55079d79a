/**
 * An API server that speaks the real protocol over real HTTP and keeps real state, as far as EndpointSlices go; and that
 * does to its clients, when a script says so, whatever an API server ever did.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { Access } from './access.ts';
import { apiGroup, misbehave, pageNotFound, refuse, send, write } from './answers.ts';
import { type Fault, Faults } from './faults.ts';
import { type Route, routeOf, selectorOf } from './route.ts';
import { expired, NO_SUCH_PATH, status } from './status.ts';
import { type ApiObject, ApiStore } from './store.ts';
import type { ServerCertificate } from './tls.ts';
import { Watcher } from './watcher.ts';

export interface FakeApiOptions {
  /** 127.0.0.1 */
  readonly host?: string;
  /** 0: any free one. */
  readonly port?: number;
  readonly tls?: ServerCertificate;
  /** Versions of discovery.k8s.io that it serves; only v1. */
  readonly versions?: readonly string[];
  /** Another version is no Status but text, as for a group that nobody has, and as some proxies answer. */
  readonly plainNotFound?: boolean;
  /** How much faster than real its seconds go. */
  readonly speed?: number;
  /** How often watches that are behind get a bookmark, in milliseconds; absent: only when the script says so. */
  readonly bookmarkMs?: number;
  /** Bytes of one write of a watch. */
  readonly chunkBytes?: number;
}

/** A list or watch that came in. */
export interface Asked {
  readonly verb: string;
  readonly namespace: string;
  readonly version: string;
  readonly query: string;
  /** As performance.now. */
  readonly at: number;
}

export class FakeApi {
  readonly access = new Access();
  readonly store = new ApiStore();
  /** Every list and watch, in their order. */
  readonly asked: Asked[] = [];
  readonly #faults = new Faults();
  readonly #options: FakeApiOptions;
  readonly #watchers = new Set<Watcher>();
  readonly #sockets = new Set<Socket>();
  readonly #bookmarks: NodeJS.Timeout | undefined;
  #versions: readonly string[];
  #server: ReturnType<typeof createServer> | undefined;
  #port: number;

  constructor(options: FakeApiOptions = {}) {
    this.#options = options;
    this.#versions = options.versions ?? ['v1'];
    this.#port = options.port ?? 0;
    this.store.follow((change) => {
      for (const watcher of this.#watchers) watcher.tell(change);
    });
    if (options.bookmarkMs) this.#bookmarks = setInterval(() => this.#remind(), options.bookmarkMs).unref();
  }

  /** Listens, on the same port each time. */
  async start(): Promise<void> {
    const { host = '127.0.0.1', tls } = this.#options;
    const answer = (request: IncomingMessage, response: ServerResponse) => void this.#answer(request, response);
    const server = tls ? createTlsServer({ cert: tls.cert, key: tls.key }, answer) : createServer(answer);
    server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => {}).on('close', () => this.#sockets.delete(socket));
    });
    server.on('tlsClientError', () => {});
    server.listen(this.#port, host);
    await once(server, 'listening');
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** Dies, its connections with it; the objects stay. */
  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    for (const socket of this.#sockets) socket.destroy();
    this.#watchers.clear();
    if (!server) return;
    server.close();
    await once(server, 'close');
  }

  async close(): Promise<void> {
    clearInterval(this.#bookmarks);
    await this.stop();
  }

  get url(): string {
    const { host = '127.0.0.1', tls } = this.#options;
    return `${tls ? 'https' : 'http'}://${host.includes(':') ? `[${host}]` : host}:${this.#port}`;
  }

  get tls(): ServerCertificate | undefined {
    return this.#options.tls;
  }

  get port(): number {
    return this.#port;
  }

  /** How many watches stand. */
  get watches(): number {
    return this.#watchers.size;
  }

  /** From now on other versions of discovery.k8s.io. */
  serve(versions: readonly string[]): void {
    this.#versions = versions;
  }

  apply(namespace: string, ...slices: readonly ApiObject[]): void {
    for (const slice of slices) this.store.put(namespace, slice);
  }

  remove(namespace: string, ...names: readonly string[]): void {
    for (const name of names) this.store.delete(namespace, name);
  }

  fail(fault: Fault): void {
    this.#faults.add(fault);
  }

  bookmark(version = this.store.version): void {
    for (const watcher of this.#watchers) watcher.bookmark(version);
  }

  #remind(): void {
    for (const watcher of this.#watchers) watcher.bookmarkIfNewer(this.store.version);
  }

  /** Does something to every watch that stands, or to those of one namespace. */
  watchers(act: (watcher: Watcher) => void, namespace?: string): void {
    for (const watcher of [...this.#watchers]) {
      if (namespace === undefined || watcher.namespace === namespace) act(watcher);
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const route = routeOf(request);
    if (!route) return pageNotFound(response);
    this.#note(route);
    if (route.resource === 'group') return send(response, 200, apiGroup(this.#versions));
    if (route.resource === 'endpointslices' && !this.#versions.includes(route.version)) {
      return this.#options.plainNotFound ? pageNotFound(response) : refuse(response, NO_SUCH_PATH);
    }
    const refusal = this.access.refuse(request.headers.authorization, route.verb, route.namespace);
    if (refusal) return refuse(response, refusal);
    if (route.verb !== 'list' && route.verb !== 'watch') return write(this.store, route, request, response);
    const fault = this.#faults.take(route.verb, route.namespace);
    if (fault) return misbehave(fault, request, response);
    if (route.verb === 'list') return this.#list(route, response);
    this.#watch(route, response);
  }

  #note({ verb, namespace, version, query }: Route): void {
    if (verb === 'list' || verb === 'watch')
      this.asked.push({ verb, namespace, version, query: query.toString(), at: performance.now() });
  }

  #list({ namespace, version, query }: Route, response: ServerResponse): void {
    const items = this.store.list(namespace, selectorOf(query.get('labelSelector')));
    const metadata = { resourceVersion: String(this.store.version) };
    const apiVersion = `discovery.k8s.io/${version}`;
    send(response, 200, { kind: 'EndpointSliceList', apiVersion, metadata, items });
  }

  /** A version that is gone is said in the stream, as by the watch cache of a real server. */
  #watch({ namespace, version, query }: Route, response: ServerResponse): void {
    const from = Number(query.get('resourceVersion') ?? '0');
    const selects = selectorOf(query.get('labelSelector'));
    const apiVersion = `discovery.k8s.io/${version}`;
    const bookmarks = query.get('allowWatchBookmarks') === 'true';
    const { chunkBytes, speed = 1 } = this.#options;
    const watcher = new Watcher(response, { namespace, selects, apiVersion, from, bookmarks, chunkBytes });
    response.writeHead(200, { 'Content-Type': 'application/json', 'Cache-Control': 'no-cache, private' });
    response.flushHeaders();
    if (from > 0 && from < this.store.oldest) {
      watcher.event('ERROR', status(expired(from, this.store.oldest)));
      watcher.end();
      return;
    }
    if (from === 0) for (const object of this.store.list(namespace, selects)) watcher.event('ADDED', object);
    else for (const change of this.store.since(from)) watcher.tell(change);
    this.#watchers.add(watcher);
    const seconds = Number(query.get('timeoutSeconds') ?? '1800');
    const timer = setTimeout(() => watcher.end(), (seconds * 1000) / speed);
    response.on('close', () => {
      clearTimeout(timer);
      this.#watchers.delete(watcher);
    });
  }
}
