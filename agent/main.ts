/** The agent, put together: constructors in order, closed in reverse. */
import { formatAddress, type SocketAddress } from './address.ts';
import { now } from './clock.ts';
import type { FollowedConfig } from './config/followed.ts';
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
import type { Lifetime, Part } from './lifetime.ts';
import type { Log } from './log.ts';
import { LogLimiter } from './log-limit.ts';
import { collectStartGarbage } from './memory.ts';
import { openHost } from './netlink/host.ts';
import { watchNetwork } from './netlink/watch.ts';
import { openNodes } from './nodes.ts';
import { watchBypass } from './observe/bypass.ts';
import { watchDescriptors } from './observe/descriptors.ts';
import { watchLosses } from './observe/losses.ts';
import { MetricsServer } from './observe/metrics-server.ts';
import { openReachability } from './reachability/open-reachability.ts';
import { Reconciler } from './reconciler.ts';
import { version } from './version.ts';

/** What an agent is put together of. */
export interface Life {
  readonly followed: FollowedConfig;
  readonly objectPath: string;
  readonly log: Log;
  /** Told of the listeners that are not served yet, whenever these are others, until there are none. */
  readonly onWaits: (names: ReadonlySet<string>) => void;
  /** What becomes of the datapath at the end. */
  readonly onEnd: (datapath: RemarkingDatapath) => void;
}

/** How often is looked which listeners are served, where another agent's sockets wait for that. */
const WAITS_LOOK_MS = 20;
/** So long a listener that fails has for another try, before it is not waited for any more: what fails may be the waiting. */
const PATIENCE_MS = 10_000;
/** Well below any lease. */
const BEAT_MS = 1000;
/** As long it may be until a downstream that is out is so for the next agent too. */
const OUTS_MS = 1000;

/** An agent that runs. */
export interface Running {
  /** Does as another config says, from now on. */
  follow(config: Config): Promise<void>;
}

/** Undefined if no listener can run on this machine; the log says why. */
export async function start(
  { followed, objectPath, log, onWaits, onEnd }: Life,
  life: Lifetime,
): Promise<Running | undefined> {
  const { config } = followed;
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
  life.onClose('datapath', () => onEnd(datapath));
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
  life.onClose('outs', () => outs.close(health));
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
  tellOfWaits(reconciler, onWaits, life.part('takeover'));
  collectStartGarbage();
  const follow = async (next: Config) => {
    reconciler.want(next.listeners);
    await health.follow(next.health);
    await metrics.follow(next.metrics);
  };
  // One after the other: the file may be edited again meanwhile.
  let followedTo = Promise.resolve();
  return {
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

function tellOfWaits(reconciler: Pick<Reconciler, 'unserved'>, tell: Life['onWaits'], { ticker }: Part): void {
  const patientUntil = now() + PATIENCE_MS;
  let told: ReadonlySet<string> | undefined;
  const stop = ticker(WAITS_LOOK_MS, () => {
    const { waiting, failing } = reconciler.unserved();
    const waits = new Set([...waiting, ...(now() < patientUntil ? failing : [])]);
    if (told?.symmetricDifference(waits).size !== 0) tell(waits);
    told = waits;
    if (waits.size === 0) stop();
  });
}

function meaning(reason: string): string {
  return [...VERDICTS, ...REASONS].find(({ name }) => name === reason)?.meaning ?? reason;
}
