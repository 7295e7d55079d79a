/**
 * One agent takes over from another. It asks that one to let go of all but its sockets, serves, and says so; only then do the
 * other's sockets go. Where it ends before that, or later while the other stands by, the other goes on.
 *
 * On the wire a line each: the other one `released`, this one `serving`. The connection is this one's sign of life.
 */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { type Peer, peerOf } from './ffi/peer.ts';
import type { Log } from './log.ts';

/** Beside that of lock.ts, in the same network namespace. */
const NAME = '\0udp-fanout-takeover';
/** Time for an agent that is just starting, on a slow machine, to get there and stop again. */
const RELEASE_MS = 10_000;
const MOST_ASKING = 8;
const RELEASED = 'released';
const SERVING = 'serving';

/** Of an agent that takes over. */
export interface Successor {
  readonly pid: number;
  /** True once it serves, false where it ended before. */
  readonly serving: Promise<boolean>;
  readonly ended: Promise<void>;
  /** Tells it that the lock is free, and the host's maps and filters are nobody's. */
  released(): void;
}

/** Of the agent that is taken over from. */
export interface Predecessor {
  /** Tells it that its sockets may go. */
  serving(): void;
  close(): void;
}

/** Who may have an agent let go. */
type Allows = (peer: Peer) => boolean;

/** Those who may end it as well: kill(2). */
const allows: Allows = ({ uid }) => uid === 0 || uid === process.getuid!();

/** Where successors ask; `asked` is the first that may, and there is only one. */
export interface Desk {
  readonly asked: Promise<Successor>;
  close(): void;
}

/** Opens the desk at a path, an abstract one by default; where that is not to be had nobody can take over, which the log says. */
export async function openDesk(log: Log, path = NAME, may: Allows = allows): Promise<Desk> {
  const { promise: asked, resolve } = Promise.withResolvers<Successor>();
  let isTaken = false;
  const server = createServer((socket) => {
    socket.on('error', () => {});
    const peer = known(socket);
    if (isTaken || !peer || !may(peer)) {
      if (peer && !isTaken) log.warn('a process that may not take over has asked to', { ...peer });
      socket.destroy();
      return;
    }
    isTaken = true;
    resolve(successor(socket, peer.pid));
  });
  server.maxConnections = MOST_ASKING;
  server.listen({ path });
  try {
    await once(server, 'listening');
  } catch (error) {
    log.warn('no other agent can take over from this one', { error: (error as Error).message });
  }
  return { asked, close: () => server.close() };
}

function known(socket: Socket): Peer | undefined {
  try {
    return peerOf(socket);
  } catch {
    return undefined;
  }
}

function successor(socket: Socket, pid: number): Successor {
  const ended = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  const serving = new Promise<boolean>((resolve) => {
    createInterface({ input: socket }).on('line', (line) => line === SERVING && resolve(true));
    ended.then(() => resolve(false));
  });
  return { pid, serving, ended, released: () => void socket.write(`${RELEASED}\n`) };
}

/**
 * Asks the agent of this network namespace to let go, and waits until it has; undefined if there is none who can. Throws where
 * it does not within 10 s.
 */
export async function askToLetGo(path = NAME, limit = RELEASE_MS): Promise<Predecessor | undefined> {
  const socket = connect({ path });
  const late = setTimeout(() => socket.destroy(new Error('late')), limit);
  try {
    await once(socket, 'connect');
    const lines = createInterface({ input: socket });
    const [line] = (await Promise.race([once(lines, 'line'), once(socket, 'close')])) as [unknown];
    if (line !== RELEASED) return undefined;
    socket.on('error', () => {}).unref();
    return { serving: () => void socket.write(`${SERVING}\n`), close: () => socket.destroy() };
  } catch (error) {
    socket.destroy();
    if ((error as Error).message !== 'late') return undefined;
    throw new Error(`the agent of this network namespace did not let go within ${limit / 1000} s: stop it`);
  } finally {
    clearTimeout(late);
  }
}
