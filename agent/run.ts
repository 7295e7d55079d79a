/**
 * An agent's lives: one from start to stop, or several in one process, where another agent takes over and this one has to go
 * on after all.
 */
import { resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { now } from './clock.ts';
import { FollowedConfig } from './config/followed.ts';
import type { Config } from './config/load.ts';
import type { HandedOver } from './datapath/composite.ts';
import { Lifetime } from './lifetime.ts';
import { type Identity, takeLock } from './lock.ts';
import { type Log, type LogFormat, type LogLevel, type OpenedLog, openLog } from './log.ts';
import { type Life, start } from './main.ts';
import { keepHeapSmall } from './memory.ts';
import { askToLetGo, openDesk, type Predecessor, type Successor } from './takeover.ts';
import { version } from './version.ts';

/** So long an agent that is to stop serves on by its sockets for another one that is about to: less than any grace period. */
const LAST_MS = 5000;

export interface AgentOptions {
  readonly config: string;
  readonly objectPath: string;
  readonly logLevel?: LogLevel;
  readonly logFormat?: LogFormat;
  /** Has an agent that runs let go, and stands by for one that takes over later. */
  readonly takeover?: boolean;
}

/**
 * Runs until SIGTERM, SIGINT or another agent's takeover; 0 after a clean stop, 1 where nothing can run. One that was itself told
 * to take over stands by then, and goes on should the other one end. Throws ConfigError.
 */
export async function runAgent(options: AgentOptions): Promise<number> {
  keepHeapSmall();
  const followed = new FollowedConfig(options.config, { podNamespace: process.env.POD_NAMESPACE });
  const logAs = ({ log }: Config) => [options.logLevel ?? log.level, options.logFormat ?? log.format] as const;
  const log = openLog(...logAs(followed.config));
  const stopped = stopSignal();
  outliveSignals(log);
  const session: Session = { ...options, followed, logAs, log, stopped, left: new LeftSockets() };
  let takes = options.takeover ?? false;
  try {
    for (;;) {
      const end = await live(session, takes);
      if (typeof end === 'number') return end;
      takes = false;
      if ((await follow(end, session)) === 'end') return 0;
    }
  } catch (error) {
    log.error((error as Error).message);
    log.debug((error as Error).stack ?? '');
    return 1;
  } finally {
    session.left.close();
  }
}

/** What still serves of lives that are over, here and in the agent that this one has taken over from, until another one does. */
class LeftSockets {
  predecessor: Predecessor | undefined;
  #kept: HandedOver[] = [];

  keep(handedOver: HandedOver): void {
    this.#kept.push(handedOver);
  }

  /** Another life serves all listeners but these. */
  keepOnly(names: ReadonlySet<string>): void {
    this.predecessor?.waits(names);
    if (names.size === 0) this.close();
    else for (const one of this.#kept) one.keepOnly(names);
  }

  close(): void {
    for (const one of this.#kept.splice(0)) one.close();
  }
}

interface Session extends AgentOptions {
  readonly followed: FollowedConfig;
  readonly logAs: (config: Config) => readonly [LogLevel, LogFormat];
  readonly log: OpenedLog;
  readonly stopped: Promise<string>;
  readonly left: LeftSockets;
}

/** From the lock to the end of all: the exit code, or who has taken over. Rejects where it fails. */
async function live(session: Session, takes: boolean): Promise<number | Successor> {
  const { followed, logAs, log, stopped, left, objectPath } = session;
  const life = new Lifetime({ log, now });
  // An error that nobody caught is like a kill: what is at work goes on, and the next agent replaces it.
  let atEnd: 'remove' | 'release' | 'handOver' = 'release';
  try {
    log.info('starting udp-fanout', { version: version(), listeners: followed.config.listeners.length });
    const lock = await takeLock(() => identityOf(followed), takes ? askToLetGo : undefined);
    life.onClose('lock', () => lock.close());
    if (lock.predecessor) {
      left.predecessor = lock.predecessor;
      log.info('taking over from the agent that ran here');
    }
    const desk = await openDesk(log);
    life.onClose('takeover', () => desk.close());
    const onEnd: Life['onEnd'] = (datapath) => {
      if (atEnd === 'handOver') left.keep(datapath.handOver());
      else datapath[atEnd]();
    };
    const onWaits: Life['onWaits'] = (names) => left.keepOnly(names);
    const agent = await start({ followed, objectPath, log, onWaits, onEnd }, life);
    if (!agent) return 1;
    const part = life.part('config');
    const onChange = (config: Config) => {
      log.follow(...logAs(config));
      agent.follow(config).catch((error: Error) => log.error(error.message));
    };
    followed.watch({ log, ticker: part.ticker, onChange });
    const reload = part.guard(() => followed.look(true));
    process.on('SIGHUP', reload);
    life.onClose('config', () => {
      process.off('SIGHUP', reload);
      followed.close();
    });
    const end = await Promise.race([stopped, desk.asked]);
    if (typeof end !== 'string') {
      atEnd = 'handOver';
      log.info('handing over to another agent', { pid: end.pid });
      return end;
    }
    if (followed.config.lifecycle.onExit === 'detach') atEnd = 'remove';
    log.info('stopping', { signal: end });
    return 0;
  } finally {
    await life.close();
  }
}

/** Serves by its sockets until the successor does; whether this agent has ended then, or has to go on. */
async function follow(
  successor: Successor,
  { log, stopped, left, takeover: standsBy = false }: Session,
): Promise<'end' | 'go on'> {
  const { pid } = successor;
  const stop = stopped.then(() => 'stop' as const);
  successor.onWaits((names) => left.keepOnly(names));
  successor.released();
  const serving = await Promise.race([stop, successor.serving]);
  // Who stops this one when another one begins need not wait for that one to serve.
  if (serving === 'stop') await Promise.race([successor.serving, delay(LAST_MS, undefined, { ref: false })]);
  if (serving === 'stop') return 'end';
  if (!serving) {
    log.warn('the agent that was to take over has ended before it served, this one goes on', { pid });
    return 'go on';
  }
  left.predecessor?.succeeded();
  log.info(standsBy ? 'handed over, standing by for the other agent' : 'handed over', { pid });
  if (!standsBy) return 'end';
  const how = await Promise.race([stop, successor.ended]);
  // Then the third agent's standby is the second one.
  if (how === 'succeeded') await stop;
  if (how !== 'ended') return 'end';
  log.warn('the agent that took over has ended, this one goes on', { pid });
  return 'go on';
}

/** Signals that would end the agent without a word, and leave what is ours on the host; Node's debugger is one of them. */
function outliveSignals(log: Log): void {
  // Until there is somebody who reloads.
  process.on('SIGHUP', () => {});
  for (const signal of ['SIGUSR1', 'SIGUSR2'] as const)
    process.on(signal, () => log.info('the agent does nothing by this signal', { signal }));
}

/** The signal that asks us to stop; rejected by an error that nobody caught, so that even then all is closed in order. */
function stopSignal(): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  // It may come before anybody waits for it.
  promise.catch(() => {});
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
  // The first one ends the agent; what else comes up meanwhile must not keep it from closing all.
  process.on('uncaughtException', reject);
  return promise;
}

/** What `doctor` is told. */
function identityOf(followed: FollowedConfig): Identity {
  const { path, digest } = followed;
  const { deviation } = followed;
  return {
    pid: process.pid,
    version: version(),
    config: resolve(path),
    digest,
    ...(deviation !== undefined && { deviation }),
  };
}
