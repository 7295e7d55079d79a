/** The agent, put together: constructors in order, closed in reverse. */
import { resolve } from 'node:path';
import { formatAddress } from './address.ts';
import { FollowedConfig } from './config/followed.ts';
import { openDatapath } from './datapath/composite.ts';
import { VERDICTS } from './datapath/tc/abi.ts';
import { openTcDatapath } from './datapath/tc/datapath.ts';
import { egressLookup } from './datapath/tc/egress.ts';
import { openUserspaceDatapath } from './datapath/userspace/datapath.ts';
import { REASONS } from './datapath/userspace/reasons.ts';
import { openSource } from './discovery/source.ts';
import { openHealth } from './health/open-health.ts';
import { type Identity, takeLock } from './lock.ts';
import { type Log, type LogFormat, type LogLevel, openLog } from './log.ts';
import { collectStartGarbage, keepHeapSmall } from './memory.ts';
import { openHost } from './netlink/host.ts';
import { watchNetwork } from './netlink/watch.ts';
import { watchLosses } from './observe/losses.ts';
import { Reconciler } from './reconciler.ts';
import { version } from './version.ts';

export interface AgentOptions {
  readonly config: string;
  readonly objectPath: string;
  readonly logLevel?: LogLevel;
  readonly logFormat?: LogFormat;
}

/** Runs until SIGTERM or SIGINT; 0 after a clean stop, 1 where nothing can run. Throws ConfigError. */
export async function runAgent(options: AgentOptions): Promise<number> {
  keepHeapSmall();
  const followed = new FollowedConfig(options.config, { podNamespace: process.env.POD_NAMESPACE });
  const { config } = followed;
  const log = openLog(options.logLevel ?? config.log.level, options.logFormat ?? config.log.format);
  const stopped = stopSignal();
  const closing: (() => void | Promise<void>)[] = [];
  try {
    if (!(await start(followed, options.objectPath, log, (close) => closing.unshift(close)))) return 1;
    log.info('stopping', { signal: await stopped });
    return 0;
  } catch (error) {
    log.error((error as Error).message);
    log.debug((error as Error).stack ?? '');
    return 1;
  } finally {
    for (const close of closing) await close();
  }
}

/** False if no listener can run on this machine; the log says why. */
async function start(
  followed: FollowedConfig,
  objectPath: string,
  log: Log,
  onClose: (close: () => void | Promise<void>) => void,
) {
  const { config } = followed;
  const { listeners } = config;
  log.info('starting udp-fanout', { version: version(), listeners: listeners.length });
  onClose((await takeLock(() => identityOf(followed))).close);
  followed.watch(log);
  onClose(() => followed.close());

  const host = openHost();
  onClose(() => host.close());
  const source = await openSource({ listeners, log });
  onClose(() => source.close());
  const health = await openHealth({ config: config.health, log });
  onClose(() => health.close());
  const filters = (ifindex: number) => host.filters(ifindex);
  const datapath = openDatapath({
    log,
    listeners,
    openKernel: () =>
      openTcDatapath({ log, objectPath, listeners, filters, egressLookup: (links) => egressLookup(host, links) }),
    openUserspace: (isSafetyNet) => openUserspaceDatapath({ log, listeners, isSafetyNet }),
  });
  onClose(() => datapath.close());
  const reconciler = new Reconciler({ log, listeners, source, health, host, datapath });
  onClose(() => reconciler.close());

  const counters = () => datapath.counters();
  const unready = () => reconciler.unready();
  const remarks = () => [...followed.remarks(), ...datapath.remarks(), ...health.remarks()];
  const discovery = () => source.status();
  if (config.metrics.enabled) {
    // Loaded only where the config asks for it: it is a quarter of the agent's memory.
    const [{ openMetrics }, { openServer }] = await Promise.all([
      import('./observe/metrics.ts'),
      import('./observe/server.ts'),
    ]);
    const registry = openMetrics({ version: version(), listeners, counters, unready, discovery, health });
    const server = await openServer({ ...config.metrics, registry, unready, remarks });
    onClose(() => server.close());
    log.info('serving metrics', { bind: formatAddress(config.metrics.bind), path: config.metrics.path });
  }
  const network = watchNetwork({ onChange: () => reconciler.trigger() });
  onClose(() => network.close());
  reconciler.trigger();
  if (reconciler.running().length === 0) return false;
  source.start(() => reconciler.trigger());
  health.start(() => reconciler.trigger());
  const losses = watchLosses({ log, counters, meaning });
  onClose(() => losses.close());
  collectStartGarbage();
  return true;
}

/** What `doctor` is told. */
function identityOf(followed: FollowedConfig): Identity {
  const { path, digest } = followed;
  const deviation = followed.deviation();
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

/** The signal that asks us to stop; rejected by an error that nobody caught, so that even then all is detached. */
function stopSignal(): Promise<string> {
  return new Promise((resolve, reject) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
    process.once('uncaughtException', reject);
  });
}
