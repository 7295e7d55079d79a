/** One watch request that stands: it writes events as lines of JSON, and can be made to misbehave. */
import type { ServerResponse } from 'node:http';
import type { ApiObject, Change, Selector } from './store.ts';

export interface WatcherOptions {
  readonly namespace: string;
  readonly selects: Selector;
  readonly apiVersion: string;
  /** No event up to this version is sent, as by a real server. */
  readonly from: number;
  readonly bookmarks: boolean;
  /** Bytes of one write; absent: a line at a time. */
  readonly chunkBytes?: number | undefined;
}

export class Watcher {
  readonly #response: ServerResponse;
  readonly #options: WatcherOptions;
  /** A silent one keeps the connection and says nothing, as a dead load balancer does. */
  silent = false;

  constructor(response: ServerResponse, options: WatcherOptions) {
    this.#response = response;
    this.#options = options;
  }

  get namespace(): string {
    return this.#options.namespace;
  }

  /** To a watch that selects by label, an object that no longer matches is deleted, and one that now does is added. */
  tell({ namespace, version, before, after }: Change): void {
    const { selects, from } = this.#options;
    if (namespace !== this.#options.namespace || version <= from) return;
    const was = before !== undefined && selects(before);
    const is = after !== undefined && selects(after);
    if (is) this.event(was ? 'MODIFIED' : 'ADDED', after);
    else if (was) {
      const metadata = { ...before.metadata, resourceVersion: String(version) };
      this.event('DELETED', { ...before, metadata });
    }
  }

  /** What a server does of itself every minute: where there is nothing new to say it says nothing. */
  bookmarkIfNewer(version: number): void {
    if (version > this.#options.from) this.bookmark(version);
  }

  bookmark(version: number): void {
    if (!this.#options.bookmarks) return;
    const metadata = { resourceVersion: String(version), creationTimestamp: null };
    this.event('BOOKMARK', { metadata, endpoints: null, addressType: '', ports: null } as unknown as ApiObject);
  }

  event(type: string, object: object): void {
    const kind = type === 'ERROR' ? {} : { kind: 'EndpointSlice', apiVersion: this.#options.apiVersion };
    this.write(`${JSON.stringify({ type, object: { ...kind, ...object } })}\n`);
  }

  /** Any bytes at all. */
  write(text: string): void {
    if (this.silent) return;
    const bytes = Buffer.from(text, 'utf8');
    const size = this.#options.chunkBytes ?? bytes.length;
    for (let at = 0; at < bytes.length; at += size) this.#response.write(bytes.subarray(at, at + size));
  }

  /** The end of the chunked body: all is in order. */
  end(): void {
    this.#response.end();
  }

  /** The connection is gone in the middle of it. */
  reset(): void {
    this.#response.socket?.destroy();
  }
}
