/** GET requests to the API server, each answer other than 200 an ApiFailure. */
import { once } from 'node:events';
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { version } from '../version.ts';
import type { Credentials } from './credentials.ts';
import { ApiFailure, failureOf, retryAfter, type Status } from './failure.ts';

const HEADERS = { Accept: 'application/json', 'User-Agent': `udp-fanout/${version()}` };

/** The first probe after so long without a byte; with libuv's ten at one second a dead peer is noticed within 20 s. */
const KEEPALIVE_MS = 10_000;

/** A Status object is short; a proxy's error page need not be. */
const LONGEST_REFUSAL = 64 << 10;

/** The response to GET `path`, its body still to be read. Throws ApiFailure; an abort throws the signal's reason. */
export async function get(credentials: Credentials, path: string, signal: AbortSignal): Promise<IncomingMessage> {
  const { server, options } = await credentials.request();
  signal.throwIfAborted();
  const base = server.pathname.replace(/\/$/, '');
  const headers = { ...options.headers, ...HEADERS };
  try {
    const { request } = server.protocol === 'http:' ? http : https;
    const asked = request(new URL(base + path, server), { ...options, headers, signal });
    asked.on('socket', (socket) => socket.setKeepAlive(true, KEEPALIVE_MS));
    asked.end();
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    // Errors reach whoever reads the body; until then nobody may be listening.
    response.on('error', () => {});
    if (response.statusCode === 200) return response;
    throw await refusal(response);
  } catch (cause) {
    throw failureIn(cause, signal, 'unreachable');
  }
}

/** What a broken connection is called: the reason of an abort if we broke it ourselves. */
export function failureIn(cause: unknown, signal: AbortSignal, reason: 'unreachable' | 'reset'): unknown {
  if (signal.aborted) return signal.reason;
  if (cause instanceof ApiFailure) return cause;
  // An AggregateError of all addresses that were tried has no message of its own.
  const { message, code } = cause as NodeJS.ErrnoException;
  const words = message || code || String(cause);
  return new ApiFailure(reason, reason === 'reset' ? `the connection broke (${words})` : words, { cause });
}

async function refusal(response: IncomingMessage): Promise<ApiFailure> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > LONGEST_REFUSAL) break;
  }
  const wait = retryAfter(response.headers['retry-after']);
  return failureOf(response.statusCode ?? 0, readStatus(Buffer.concat(chunks).toString('utf8')), wait);
}

function readStatus(body: string): Status {
  try {
    const status: unknown = JSON.parse(body);
    return typeof status === 'object' && status !== null ? status : {};
  } catch {
    return {};
  }
}
