/** One agent a network namespace: two would fight over the same filters. */
import { createServer } from 'node:net';

/** An abstract socket: it belongs to the network namespace, as the filters do, and dies with its process (unix(7)). */
const NAME = '\0udp-fanout';
const TRIES = 30;
const PAUSE_MS = 100;

/** Another agent is here and did not go within 3 s. */
export class AgentRunning extends Error {
  override readonly name = 'AgentRunning';
}

/** Takes the lock, waiting for an agent that is just stopping; throws AgentRunning. */
export async function takeLock(): Promise<{ close(): void }> {
  for (let tries = 1; ; tries++) {
    const server = createServer();
    const taken = await new Promise<boolean>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) =>
        error.code === 'EADDRINUSE' ? resolve(false) : reject(error),
      );
      server.listen({ path: NAME }, () => resolve(true));
    });
    if (taken) return { close: () => server.close() };
    if (tries === TRIES) {
      throw new AgentRunning(
        'another udp-fanout agent runs in this network namespace: stop it first (one a node is enough)',
      );
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}
