/** One agent a network namespace: two would fight over the same filters. Who asks it is told what it runs. */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import type { Predecessor } from './takeover.ts';

/** An abstract socket: it belongs to the network namespace, as the filters do, and dies with its process (unix(7)). */
const NAME = '\0udp-fanout';
const TRIES = 30;
const PAUSE_MS = 100;
/** An agent that is just starting on a slow machine has no time for anybody. */
const ANSWER_MS = 5000;
const MOST_ASKING = 8;

/** What an agent says of itself. */
export interface Identity {
  readonly pid: number;
  readonly version: string;
  /** Path of its config file, as it sees it. */
  readonly config: string;
  /** Of the config that it runs by (config/followed.ts). */
  readonly digest: string;
  /** How the file differs from that by now, and what to do; absent while it does not. */
  readonly deviation?: string;
}

export interface Lock {
  /** Who had it, where that one was asked to let go and has. */
  readonly predecessor: Predecessor | undefined;
  close(): void;
}

/**
 * Takes the lock, waiting for an agent that is just stopping, and answers with the identity; throws where that did not go within
 * 3 s. With `askToLetGo` (takeover.ts) it does not wait for one that runs.
 */
export async function takeLock(
  identify: () => Identity,
  askToLetGo?: () => Promise<Predecessor | undefined>,
): Promise<Lock> {
  let predecessor: Predecessor | undefined;
  for (let tries = 1; ; tries++) {
    const server = createServer((asking) => {
      asking.on('error', () => {}).setTimeout(ANSWER_MS, () => asking.destroy());
      answer(asking, identify);
    });
    server.maxConnections = MOST_ASKING;
    const taken = await new Promise<boolean>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) =>
        error.code === 'EADDRINUSE' ? resolve(false) : reject(error),
      );
      server.listen({ path: NAME }, () => resolve(true));
    });
    if (taken) return { predecessor, close: () => server.close() };
    if (tries === TRIES) {
      const mend = 'stop it first (one a node is enough), or take over from it with --takeover';
      throw new Error(`another udp-fanout agent runs in this network namespace: ${mend}`);
    }
    // Somebody else was faster than we, to whom it has let go.
    const isFirst = !predecessor;
    predecessor?.close();
    predecessor = await askToLetGo?.();
    if (predecessor && isFirst) continue;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

/** Who asks harms nobody: an agent that cannot tell hangs up, which is 'silent' to them, and goes on. */
export function answer(asking: Socket, identify: () => Identity): void {
  try {
    asking.end(`${JSON.stringify(identify())}\n`);
  } catch {
    asking.destroy();
  }
}

/** Asks the agent of this network namespace; undefined if there is none, 'silent' if it does not tell. */
export async function askAgent(): Promise<Identity | 'silent' | undefined> {
  const socket = connect({ path: NAME });
  try {
    await once(socket, 'connect');
  } catch {
    return undefined;
  }
  try {
    const signal = AbortSignal.timeout(ANSWER_MS);
    signal.addEventListener('abort', () => socket.destroy(signal.reason));
    return JSON.parse(Buffer.concat(await socket.toArray()).toString('utf8')) as Identity;
  } catch {
    return 'silent';
  } finally {
    socket.destroy();
  }
}
