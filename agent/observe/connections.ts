/**
 * What the HTTP server holds of strangers' connections: few, with short headers, not for long. On the host network anybody
 * may open one, and its memory is the agent's.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** Two Prometheus servers, the kubelet's probes and some people with curl take half of it. */
export const MAX_CONNECTIONS = 16;

/** What fastify is told; times in milliseconds. */
export const BOUNDS = {
  requestTimeout: 5000,
  keepAliveTimeout: 5000,
  /** Nothing read or written for so long, and it ends: also one that asks and never reads the answer. */
  connectionTimeout: 10_000,
  http: {
    maxHeaderSize: 8 << 10,
    headersTimeout: 5000,
    /** How often requests that take too long are looked for: by default only every 30 s. */
    connectionsCheckingInterval: 1000,
  },
} as const;

/**
 * Ends the oldest connection when there is one too many, rather than refuse the new one: those who open many and say
 * nothing make room for a scrape. One that is being answered goes last.
 */
export function boundConnections(server: Server, most = MAX_CONNECTIONS): void {
  /** The oldest first. */
  const open = new Set<Socket>();
  const answering = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
    if (open.size <= most) return;
    const others = [...open].slice(0, -1);
    const oldest = others.find((one) => !answering.has(one)) ?? others[0]!;
    open.delete(oldest);
    oldest.destroy();
  });
  server.on('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
    answering.add(socket);
    response.once('close', () => answering.delete(socket));
  });
}
