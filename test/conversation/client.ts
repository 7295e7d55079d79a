/** Plain requests to an API server with the credentials that our own discovery uses. */
import { once } from 'node:events';
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import type { Credentials } from '../../agent/discovery/credentials.ts';
import { LineSplitter } from '../../agent/discovery/lines.ts';
import type { Json } from './format.ts';

export interface Answer {
  readonly status: number;
  /** Text where it is no JSON. */
  readonly body: unknown;
}

export class Client {
  readonly #credentials: Credentials;

  constructor(credentials: Credentials) {
    this.#credentials = credentials;
  }

  async ask(method: string, path: string, body?: Json, token?: string): Promise<Answer> {
    const response = await this.#send(method, path, body, token);
    const text = Buffer.concat(await response.toArray()).toString('utf8');
    return { status: response.statusCode!, body: parsed(text) };
  }

  async watch(path: string): Promise<Watch> {
    return new Watch(await this.#send('GET', path));
  }

  async #send(method: string, path: string, body?: Json, token?: string): Promise<IncomingMessage> {
    const { server, options } = await this.#credentials.request();
    const { request } = server.protocol === 'http:' ? http : https;
    const headers = {
      ...options.headers,
      Accept: 'application/json',
      ...(body !== undefined && { 'Content-Type': 'application/json' }),
      ...(token !== undefined && { Authorization: `Bearer ${token}` }),
    };
    // With another token, a client certificate must not speak for it.
    const { cert, key, agent, ...rest } = options;
    const login = token === undefined ? { cert, key, agent } : {};
    const base = server.pathname.replace(/\/$/, '');
    const asked = request(new URL(base + path, server), { ...rest, ...login, method, headers } as https.RequestOptions);
    asked.end(body === undefined ? undefined : JSON.stringify(body));
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    return response;
  }
}

/** A watch that stands, event by event. */
export class Watch {
  readonly #response: IncomingMessage;
  readonly #events: unknown[] = [];
  #wake = () => {};

  constructor(response: IncomingMessage) {
    this.#response = response;
    const lines = new LineSplitter((line) => {
      this.#events.push(parsed(line));
      this.#wake();
    });
    response.on('data', (chunk: Buffer) => lines.push(chunk)).on('error', () => {});
  }

  /** The next event that is no bookmark; throws if none comes within `ms`. */
  async next(ms: number): Promise<unknown> {
    const deadline = performance.now() + ms;
    for (;;) {
      const event = this.#events.shift() as { type?: string } | undefined;
      if (event && event.type !== 'BOOKMARK') return event;
      if (event) continue;
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`no event within ${ms} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  close(): void {
    this.#response.destroy();
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
