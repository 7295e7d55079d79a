/** The HTTP face: metrics, liveness, readiness. */
import fastify from 'fastify';
import type { Registry } from 'prom-client';
import { formatAddress, type SocketAddress } from '../address.ts';
import { BOUNDS, boundConnections } from './connections.ts';

export interface ServerOptions {
  readonly bind: SocketAddress;
  readonly path: string;
  readonly registry: Registry;
  /** What is not ready; empty when all is. */
  readonly unready: () => readonly string[];
  /** What is worth a look though all is ready, a line each. */
  readonly remarks: () => readonly string[];
}

export interface Server {
  close(): Promise<void>;
}

/** Listens; throws where the port or address is not to be had, in one line. */
export async function openServer({ bind, path, registry, unready, remarks }: ServerOptions): Promise<Server> {
  const server = fastify({ logger: false, forceCloseConnections: true, ...BOUNDS });
  boundConnections(server.server);
  let scrape: Promise<string> | undefined;
  server.get(path, async (_request, reply) => {
    // Made once for all that ask at the same time: one connection may ask a hundred times in one packet.
    scrape ??= registry.metrics().finally(() => {
      scrape = undefined;
    });
    return reply.type(registry.contentType).send(await scrape);
  });
  server.get('/healthz', async (_request, reply) => reply.type('text/plain').send('ok\n'));
  server.get('/readyz', async (_request, reply) => {
    const missing = unready();
    const ready = missing.length === 0;
    return reply
      .code(ready ? 200 : 503)
      .type('text/plain')
      .send([ready ? 'ok' : `not ready: ${missing.join(', ')}`, ...remarks(), ''].join('\n'));
  });
  try {
    await server.listen({ host: bind.ip, port: bind.port });
  } catch (cause) {
    await server.close();
    throw new Error(listenFailure(bind, cause as NodeJS.ErrnoException), { cause });
  }
  return { close: () => server.close() };
}

function listenFailure(bind: SocketAddress, error: NodeJS.ErrnoException): string {
  const what = `failed to serve metrics on "${formatAddress(bind)}"`;
  if (error.code === 'EADDRINUSE')
    return `${what}: the port is taken by another process: set metrics.bind to a free one`;
  if (error.code === 'EADDRNOTAVAIL')
    return `${what}: this machine has no such address: set metrics.bind to one of its own`;
  if (error.code === 'EACCES') return `${what}: permission denied: set metrics.bind to a port above 1023`;
  return `${what}: ${error.message}`;
}
