/**
 * One agent takes over from another. It asks that one to let go of all but its sockets, serves, and says of which listeners
 * that does not hold yet; the other's sockets go as those of the same listener serve. Where it ends before that, or later while
 * the other stands by, the other goes on.
 *
 * On the wire a line each: `let go`; `released`; then, as often as it changes, `waits` and the names of the listeners that the
 * new agent does not serve yet; and `succeeded`, where a third agent has taken over from it and all of this is that one's.
 */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { createInterface, type Interface } from 'node:readline';
import { type Peer, peerOf } from './ffi/peer.ts';
import type { Log } from './log.ts';

/** Beside that of lock.ts, in the same network namespace. */
const NAME = '\0udp-fanout-takeover';
/** Time for an agent that is just starting, on a slow machine, to get there and stop again. */
const RELEASE_MS = 10_000;
const MOST_ASKING = 8;
/** In which who connects says what it wants. */
const ASKING_MS = 5000;
const LET_GO = 'let go';
const RELEASED = 'released';
const WAITS = 'waits';
const SUCCEEDED = 'succeeded';

/** Of an agent that takes over. */
export interface Successor {
  readonly pid: number;
  /** Has the names of listeners that it does not serve yet told to one, from now on. */
  onWaits(tell: (names: ReadonlySet<string>) => void): void;
  /** True once it serves all, false where it ended before. */
  readonly serving: Promise<boolean>;
  /** How it ended, or whether a third one has taken over from it. */
  readonly ended: Promise<'ended' | 'succeeded'>;
  /** Tells it that the lock is free, and the host's maps and filters are nobody's. */
  released(): void;
}

/** Of the agent that is taken over from. */
export interface Predecessor {
  /** Tells it whose sockets may not go yet. */
  waits(names: Iterable<string>): void;
  /** Tells it that a third agent has taken over from this one. */
  succeeded(): void;
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
  let isSaid = false;
  const server = createServer((socket) => {
    socket.on('error', () => {});
    const peer = known(socket);
    if (isTaken || !peer || !may(peer)) {
      socket.destroy();
      if (isTaken || !peer || isSaid) return;
      isSaid = true;
      log.warn('a process that may not take over has asked to', { ...peer });
      return;
    }
    const late = setTimeout(() => socket.destroy(), ASKING_MS);
    const lines = linesOf(socket);
    lines.once('line', (line) => {
      clearTimeout(late);
      if (isTaken || line !== LET_GO) {
        socket.destroy();
        return;
      }
      isTaken = true;
      resolve(successor(socket, lines, peer.pid));
    });
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

/** An error of the socket's is one of its lines' as well (readline). */
function linesOf(socket: Socket): Interface {
  return createInterface({ input: socket }).on('error', () => {});
}

function known(socket: Socket): Peer | undefined {
  try {
    return peerOf(socket);
  } catch {
    return undefined;
  }
}

function successor(socket: Socket, lines: Interface, pid: number): Successor {
  const ended = Promise.withResolvers<'ended' | 'succeeded'>();
  const serving = Promise.withResolvers<boolean>();
  let tell: (names: ReadonlySet<string>) => void = () => {};
  socket.once('close', () => {
    serving.resolve(false);
    ended.resolve('ended');
  });
  lines.on('line', (line) => {
    const [word, ...names] = line.split(' ');
    if (word === SUCCEEDED) ended.resolve('succeeded');
    if (word !== WAITS) return;
    tell(new Set(names));
    if (names.length === 0) serving.resolve(true);
  });
  return {
    pid,
    onWaits: (next) => {
      tell = next;
    },
    serving: serving.promise,
    ended: ended.promise,
    released: () => void socket.write(`${RELEASED}\n`),
  };
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
    socket.write(`${LET_GO}\n`);
    const lines = linesOf(socket);
    const [line] = (await Promise.race([once(lines, 'line'), once(socket, 'close')])) as [unknown];
    if (line !== RELEASED) return undefined;
    socket.on('error', () => {}).unref();
    return {
      waits: (names) => void socket.write(`${[WAITS, ...names].join(' ')}\n`),
      succeeded: () => void socket.write(`${SUCCEEDED}\n`),
      close: () => socket.destroy(),
    };
  } catch (error) {
    socket.destroy();
    if ((error as Error).message !== 'late') return undefined;
    throw new Error(`the agent of this network namespace did not let go within ${limit / 1000} s: stop it`);
  } finally {
    clearTimeout(late);
  }
}
