/**
 * Opens a listener: its sockets, and threads or, for the safety net, this thread to serve them. They serve first and are
 * bound then: a socket that nobody reads yet would lose what its buffer does not hold.
 */
import { missingCapabilities } from '../../capabilities.ts';
import { libc } from '../../ffi/libc.ts';
import { abilities } from '../../kernel/abilities.ts';
import type { Log } from '../../log.ts';
import { DEFAULT_RECEIVE_BUFFER, type Listener } from '../../model.ts';
import type { Preserve } from './forward/source-paths.ts';
import type { ForwarderGroup } from './forwarder-group.ts';
import { LARGEST_MESSAGE } from './messages/receive-batch.ts';
import { SafetyNet } from './safety-net.ts';
import type { TableSnapshot } from './snapshot.ts';
import { bindTo, type ListenerSocket, openListenerSocket, SENDERS, type Senders, tryBind } from './sockets/open.ts';
import type { Terms } from './workers/job.ts';
import type { WorkerPool } from './workers/pool.ts';

export interface OpenListenerOptions {
  readonly log: Log;
  /** Says a line, but only once. */
  readonly once: (level: 'info' | 'warn', line: string) => void;
  /** Whether one forwarder of this thread serves it, and not workers. */
  readonly safetyNet: boolean;
  /** Whether `[::]` leaves IPv4 to a listener on `0.0.0.0`. */
  readonly onlyIpv6: boolean;
  /** Whether there are broadcasts that a wildcard leaves to another listener. */
  readonly tellsDestination: boolean;
  readonly forwarders: number;
  readonly snapshot: TableSnapshot;
  readonly pool: WorkerPool;
  /** How many threads the pool may have, if no listener has more sockets. */
  readonly threads: number;
  /** How this thread opens sockets to send by. */
  readonly senders: Senders | undefined;
}

/** What serves a listener, and the sockets that it serves, which stay the listener's. */
export interface OpenedListener {
  readonly fds: readonly number[];
  readonly group: ForwarderGroup;
}

/** A listener whose workers get ready; others' may meanwhile. To be bound, and only once. */
export interface Opening {
  /** Waits for the workers. Leaves nothing open where it throws SystemError. */
  bind(): OpenedListener;
}

/** A worker that is not ready by then finds in its socket what came; it takes a twentieth of it where the machine is idle. */
const READY_MS = 5000;

/** Leaves nothing open where it throws: SystemError, or why sources cannot be kept or no thread be had. */
export function openListener(listener: Listener, options: OpenListenerOptions): Opening {
  const preserve = preserveOf(listener, options);
  const fds = openAll(listener, options);
  try {
    const group = options.safetyNet
      ? openSafetyNet(listener, fds[0]!, preserve, options)
      : openShares(listener, fds, preserve, options);
    return { bind: () => bindAll(listener, { fds, group }) };
  } catch (error) {
    for (const fd of fds) libc.close(fd);
    throw error;
  }
}

function bindAll({ bind }: Listener, opened: OpenedListener): OpenedListener {
  const { fds, group } = opened;
  try {
    group.ready(READY_MS);
    for (const fd of fds) bindTo(fd, bind);
    return opened;
  } catch (error) {
    group.close();
    for (const fd of fds) libc.close(fd);
    throw error;
  }
}

function openAll({ name, bind, settings }: Listener, options: OpenListenerOptions): number[] {
  const { once, safetyNet, onlyIpv6, tellsDestination, forwarders } = options;
  const sockets: ListenerSocket[] = [];
  const blocking = !safetyNet;
  // A socket with UDP_GRO has the kernel merge a flow's datagrams as early as on the NIC, before the kernel path's
  // program sees them: whole bursts would go to one downstream.
  const coalesces = !safetyNet && abilities().coalesces;
  const receiveBuffer = settings.recvBufSize || DEFAULT_RECEIVE_BUFFER;
  const tells = { tellsArrival: safetyNet, tellsDestination };
  const each = { receiveBuffer, blocking, coalesces, onlyIpv6, isFurther: false, ...tells };
  // No thread is started for a port that is not to be had.
  tryBind(bind, each);
  try {
    while (sockets.length < forwarders) {
      sockets.push(openListenerSocket(bind, { ...each, isFurther: sockets.length > 0 }));
    }
  } catch (error) {
    for (const { fd } of sockets) libc.close(fd);
    throw error;
  }
  const clamped = sockets[0]?.clamped;
  if (clamped) {
    const got = `receive buffer of listener "${name}": asked for ${clamped.asked} bytes, got ${clamped.got}`;
    // Who asks for nothing has as much as there is.
    once(
      settings.recvBufSize > 0 ? 'warn' : 'info',
      `${got}: raise the sysctl net.core.rmem_max, or add the capability NET_ADMIN`,
    );
  }
  return sockets.map(({ fd }) => fd);
}

function openSafetyNet(
  { name, settings }: Listener,
  fd: number,
  preserve: Preserve | undefined,
  { log, snapshot, senders = SENDERS }: OpenListenerOptions,
): ForwarderGroup {
  const { batchSize } = settings;
  const fields = { log, name, fd, index: 0, preserve, batchSize, snapshot, senders, arrivals: new Map() };
  // The program takes every size, so what comes past it may have any.
  return new SafetyNet({ ...fields, maxPacketSize: LARGEST_MESSAGE, gathers: abilities().gathers, coalesces: false });
}

function openShares(
  { name, settings }: Listener,
  fds: readonly number[],
  preserve: Preserve | undefined,
  { log, snapshot, pool, threads, senders = SENDERS }: OpenListenerOptions,
): ForwarderGroup {
  const { batchSize, maxPacketSize, pinCpus: pin } = settings;
  const { gathers, coalesces } = abilities();
  const sockets = fds.map((fd, index) => {
    return { fd, index, batchSize, maxPacketSize, preserve, gathers, coalesces, pin };
  });
  // All stand-ins are of this one thread, so they share a row of the counters, behind the workers'.
  const standIn = (terms: Terms, latest: TableSnapshot) =>
    new SafetyNet({ ...terms, log, name, index: fds.length, snapshot: latest, senders });
  return pool.serve({ name, sockets, snapshot, threads, standIn });
}

/** How sources are kept; undefined for nat. */
function preserveOf({ name, source, settings }: Listener, { once }: OpenListenerOptions): Preserve | undefined {
  if (source === 'nat') return undefined;
  const { transparent, raw } = abilities();
  if (transparent || raw) return { transparent, raw, maxSources: settings.maxSources };
  const missing = missingCapabilities(['NET_ADMIN', 'NET_RAW']).join(', ') || 'NET_ADMIN, NET_RAW';
  const lack = `missing capability ${missing}`;
  if (source === 'preserve') throw new Error(`listener "${name}": source: preserve: ${lack}`);
  once('info', `sources are not preserved, downstreams see this node's address (nat): ${lack}`);
  return undefined;
}
