/**
 * An agent's lives: one from start to stop, or several in one process, where another agent takes over and this one has to go
 * on after all.
 */
import { now } from './clock.ts';
import { FollowedConfig } from './config/followed.ts';
import type { Config } from './config/load.ts';
import { Lifetime } from './lifetime.ts';
import { type Log, type LogFormat, type LogLevel, type OpenedLog, openLog } from './log.ts';
import { type Life, start } from './main.ts';
import { keepHeapSmall } from './memory.ts';
import type { Successor } from './takeover.ts';

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
  const session = { ...options, followed, logAs, log, stopped, left: new LeftSockets() };
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

/** What still serves of a life that is over, until another one does. */
class LeftSockets {
  close = () => {};

  keep(close: () => void): void {
    const before = this.close;
    this.close = () => {
      this.close = () => {};
      before();
      close();
    };
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
    const onEnd: Life['onEnd'] = (datapath) => {
      if (atEnd === 'handOver') left.keep(datapath.handOver());
      else datapath[atEnd]();
    };
    const onSettled = () => left.close();
    const agent = await start({ followed, objectPath, log, takes, onSettled, onEnd }, life);
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
    const end = await Promise.race([stopped, agent.successor]);
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
  successor.released();
  const serving = await Promise.race([stop, successor.serving]);
  if (serving === 'stop') return 'end';
  if (!serving) {
    log.warn('the agent that was to take over has ended before it served, this one goes on', { pid });
    return 'go on';
  }
  left.close();
  log.info(standsBy ? 'handed over, standing by for the other agent' : 'handed over', { pid });
  if (!standsBy || (await Promise.race([stop, successor.ended])) === 'stop') return 'end';
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

/** The signal that asks us to stop; rejected by an error that nobody caught, so that even then all is detached. */
function stopSignal(): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  // It may come before anybody waits for it.
  promise.catch(() => {});
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
  // The first one ends the agent; what else comes up meanwhile must not keep it from closing all.
  process.on('uncaughtException', reject);
  return promise;
}
