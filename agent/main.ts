/** The agent, put together: constructors in order, closed in reverse. */
import { resolve } from 'node:path';
import { formatAddress, type SocketAddress } from './address.ts';
import { now } from './clock.ts';
import { FollowedConfig } from './config/followed.ts';
import type { Config } from './config/load.ts';
import { openDatapath, type RemarkingDatapath } from './datapath/composite.ts';
import { VERDICTS } from './datapath/tc/abi.ts';
import { detachAll, type ListFilters } from './datapath/tc/clsact.ts';
import { openTcDatapath } from './datapath/tc/datapath.ts';
import { egressLookup, wayLookup } from './datapath/tc/egress.ts';
import { openUserspaceDatapath } from './datapath/userspace/datapath.ts';
import { REASONS } from './datapath/userspace/reasons.ts';
import { openSource } from './discovery/source.ts';
import { FollowedHealth } from './health/followed-health.ts';
import { OutFile } from './health/out-file.ts';
import { Lifetime } from './lifetime.ts';
import { type Identity, takeLock } from './lock.ts';
import { type Log, type LogFormat, type LogLevel, type OpenedLog, openLog } from './log.ts';
import { LogLimiter } from './log-limit.ts';
import { collectStartGarbage, keepHeapSmall } from './memory.ts';
import { openHost } from './netlink/host.ts';
import { watchNetwork } from './netlink/watch.ts';
import { openNodes } from './nodes.ts';
import { watchBypass } from './observe/bypass.ts';
import { watchDescriptors } from './observe/descriptors.ts';
import { watchLosses } from './observe/losses.ts';
import { MetricsServer } from './observe/metrics-server.ts';
import { openReachability } from './reachability/open-reachability.ts';
import { Reconciler } from './reconciler.ts';
import { askToLetGo, openDesk, type Successor } from './takeover.ts';
import { version } from './version.ts';

export interface AgentOptions {
  readonly config: string;
  readonly objectPath: string;
  readonly logLevel?: LogLevel;
  readonly logFormat?: LogFormat;
  /** Has an agent that runs let go, and stands by for one that takes over later. */
  readonly takeover?: boolean;
}

/** How often is looked whether all listeners are served, where another agent's sockets wait for that. */
const SETTLED_LOOK_MS = 20;
/** Well below any lease. */
const BEAT_MS = 1000;
/** As long it may be until a downstream that is out is so for the next agent too. */
const OUTS_MS = 1000;

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
  let takes = options.takeover ?? false;
  const left = new LeftSockets();
  try {
    for (;;) {
      const end = await live({ ...options, followed, logAs, log, stopped, takes, left });
      if (typeof end === 'number') return end;
      takes = false;
      if ((await follow(end, { log, stopped, left, standsBy: options.takeover ?? false })) === 'end') return 0;
    }
  } catch (error) {
    log.error((error as Error).message);
    log.debug((error as Error).stack ?? '');
    return 1;
  } finally {
    left.close();
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

interface Life extends AgentOptions {
  readonly followed: FollowedConfig;
  readonly logAs: (config: Config) => readonly [LogLevel, LogFormat];
  readonly log: OpenedLog;
  readonly stopped: Promise<string>;
  /** Whether it takes over from an agent that runs. */
  readonly takes: boolean;
  readonly left: LeftSockets;
}

/** From the lock to the end of all: the exit code, or who has taken over. Rejects where it fails. */
async function live(options: Life): Promise<number | Successor> {
  const { followed, logAs, log, stopped, left } = options;
  const life = new Lifetime({ log, now });
  // An error that nobody caught is like a kill: what is at work goes on, and the next agent replaces it.
  let atEnd: 'remove' | 'release' | 'handOver' = 'release';
  try {
    const agent = await start(options, life, (datapath) => {
      if (atEnd === 'handOver') left.keep(datapath.handOver());
      else datapath[atEnd]();
    });
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
  { log, stopped, left, standsBy }: Pick<Life, 'log' | 'stopped' | 'left'> & { readonly standsBy: boolean },
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

/** An agent that runs. */
interface Running {
  /** Another agent that asks this one to let go. */
  readonly successor: Promise<Successor>;
  /** Does as another config says, from now on. */
  follow(config: Config): Promise<void>;
}

/** Undefined if no listener can run on this machine; the log says why. */
async function start(
  { followed, objectPath, log, takes, left }: Life,
  life: Lifetime,
  end: (datapath: RemarkingDatapath) => void,
): Promise<Running | undefined> {
  const { config } = followed;
  log.info('starting udp-fanout', { version: version(), listeners: config.listeners.length });
  const lock = await takeLock(() => identityOf(followed), takes ? askToLetGo : undefined);
  life.onClose('lock', () => lock.close());
  if (lock.predecessor) log.info('taking over from the agent that ran here');
  const desk = await openDesk(log);
  life.onClose('takeover', () => desk.close());

  const host = openHost();
  life.onClose('host', () => host.close());
  const source = openSource({ log, ...life.part('discovery') });
  life.onClose('discovery', () => source.close());
  const reachability = openReachability({ host, log, ...life.part('reachability') });
  life.onClose('reachability', () => reachability?.close());
  const filters: ListFilters = (ifindex, side) => host.filters(ifindex, side);
  const datapath = openDatapath({
    log,
    openKernel: () =>
      openTcDatapath({
        log,
        objectPath,
        filters,
        links: () => host.links(),
        leaseSecs: () => followed.config.lifecycle.leaseSecs,
        egressLookup: (links) => egressLookup(host, links, (address) => reachability?.isResolved(address) ?? true),
        onLink: (address) => reachability?.onLink(address),
        ways: () => wayLookup(host),
        neighbours: host,
      }),
    removeLeft: () => {
      for (const name of detachAll(host)) {
        log.info('detached the program that an agent before this one has left', { interface: name });
      }
    },
    openUserspace: (isSafetyNet) => openUserspaceDatapath({ log, isSafetyNet }),
  });
  life.onClose('datapath', () => end(datapath));
  life.part('lease').ticker(BEAT_MS, () => datapath.beat());
  const outs = new OutFile({ log });
  const health = await FollowedHealth.open({
    config: config.health,
    log,
    reachability,
    wasOut: (listener, address) =>
      outs.has(listener, address) || isOut(datapath.left(listener, address.family), address),
    ...life.part('health'),
  });
  life.onClose('health', () => health.close());
  life.onClose('outs', () => outs.write(health));
  life.part('outs').ticker(OUTS_MS, () => outs.write(health));
  const { timer, guard } = life.part('reconciler');
  const nodes = openNodes(source, reachability);
  const reconciler = new Reconciler({ log, source, health, host, datapath, nodes, timer });
  life.onClose('reconciler', () => reconciler.close());
  const trigger = guard(() => reconciler.trigger());

  const counters = () => datapath.counters();
  const bypass = watchBypass({
    alerts: new LogLimiter({ log, now, timer }),
    counters,
    nameOf: (ifindex) => host.link(ifindex)?.name,
    ...life.part('bypass'),
  });
  life.onClose('bypass', () => bypass.close());
  const unready = () => reconciler.unready();
  const remarks = () => [followed, reconciler, datapath, bypass, health, metrics].flatMap((one) => one.remarks());
  const egressDrops = () => reachability?.egressDrops() ?? new Map<string, number>();
  const internalErrors = () => life.errors;
  const metrics = new MetricsServer({
    log,
    sources: {
      version: version(),
      counters,
      egressDrops,
      unready,
      reload: () => followed.reload,
      internalErrors,
      discovery: () => source.status(),
      health,
    },
    unready,
    remarks,
  });
  life.onClose('metrics', () => metrics.close());
  await metrics.follow(config.metrics);
  const network = watchNetwork({ onChange: trigger }, life.part('netlink'));
  life.onClose('netlink', () => network.close());
  reconciler.want(config.listeners);
  if (reconciler.running().length === 0) return undefined;
  await source.start(trigger);
  health.start(() => {
    outs.changed();
    trigger();
  });
  const losses = watchLosses({ log, counters, meaning, ...life.part('losses') });
  life.onClose('losses', () => losses.close());
  const descriptors = watchDescriptors({ log, ...life.part('descriptors') });
  life.onClose('descriptors', () => descriptors.close());
  const stopLooking = life.part('takeover').ticker(SETTLED_LOOK_MS, () => {
    if (!reconciler.isSettled) return;
    stopLooking();
    lock.predecessor?.serving();
    left.close();
  });
  collectStartGarbage();
  const follow = async (next: Config) => {
    reconciler.want(next.listeners);
    await health.follow(next.health);
    await metrics.follow(next.metrics);
  };
  // One after the other: the file may be edited again meanwhile.
  let followedTo = Promise.resolve();
  return {
    successor: desk.asked,
    follow: (next) => {
      followedTo = followedTo.catch(() => {}).then(() => follow(next));
      return followedTo;
    },
  };
}

/** Whether a downstream was not among those that were in use; where there was none, nothing is known of any. */
function isOut(left: ReadonlySet<string> | undefined, address: SocketAddress): boolean {
  return left !== undefined && left.size > 0 && !left.has(formatAddress(address));
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

function meaning(reason: string): string {
  return [...VERDICTS, ...REASONS].find(({ name }) => name === reason)?.meaning ?? reason;
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
