/** Opens a listener: its sockets, and threads or, for the safety net, this thread to serve them. */
import { missingCapabilities } from '../../capabilities.ts';
import { libc } from '../../ffi/libc.ts';
import { abilities } from '../../kernel/abilities.ts';
import type { Log } from '../../log.ts';
import type { Listener } from '../../model.ts';
import type { Preserve } from './forward/source-paths.ts';
import { SafetyNet } from './safety-net.ts';
import type { TableSnapshot } from './snapshot.ts';
import { type ListenerSocket, openListenerSocket } from './sockets/open.ts';
import { allowedCpus } from './workers/cpus.ts';
import { type ForwarderGroup, type StartThread, WorkerPool } from './workers/pool.ts';

export interface OpenListenerOptions {
  readonly log: Log;
  /** Says a line, but only once. */
  readonly once: (level: 'info' | 'warn', line: string) => void;
  /** Whether one forwarder of this thread serves it, and not as many workers. */
  readonly safetyNet: boolean;
  /** Whether `[::]` leaves IPv4 to a listener on `0.0.0.0`. */
  readonly onlyIpv6: boolean;
  readonly forwarders: number;
  readonly snapshot: TableSnapshot;
  readonly startThread: StartThread | undefined;
}

/** What serves a listener, and the sockets that it serves, which stay the listener's. */
export interface OpenedListener {
  readonly fds: readonly number[];
  readonly group: ForwarderGroup;
}

/** Leaves nothing open where it throws: SystemError, or why sources cannot be kept or no thread be had. */
export function openListener(listener: Listener, options: OpenListenerOptions): OpenedListener {
  const preserve = preserveOf(listener, options);
  const fds = bindAll(listener, options);
  try {
    const group = options.safetyNet
      ? openSafetyNet(listener, fds[0]!, preserve, options)
      : openPool(listener, fds, preserve, options);
    return { fds, group };
  } catch (error) {
    for (const fd of fds) libc.close(fd);
    throw error;
  }
}

function bindAll({ name, bind, settings }: Listener, options: OpenListenerOptions): number[] {
  const { once, safetyNet, onlyIpv6, forwarders } = options;
  const sockets: ListenerSocket[] = [];
  const blocking = !safetyNet;
  // A socket with UDP_GRO has the kernel merge a flow's datagrams as early as on the NIC, before the kernel path's
  // program sees them: whole bursts would go to one downstream.
  const coalesces = !safetyNet && abilities().coalesces;
  try {
    while (sockets.length < forwarders) {
      const isFurther = sockets.length > 0;
      const { recvBufSize: receiveBuffer } = settings;
      sockets.push(openListenerSocket(bind, { receiveBuffer, blocking, coalesces, onlyIpv6, isFurther }));
    }
  } catch (error) {
    for (const { fd } of sockets) libc.close(fd);
    throw error;
  }
  const clamped = sockets[0]?.clamped;
  if (clamped) {
    const got = `receive buffer of listener "${name}": asked for ${clamped.asked} bytes, got ${clamped.got}`;
    once('warn', `${got}: raise the sysctl net.core.rmem_max, or add the capability NET_ADMIN`);
  }
  return sockets.map(({ fd }) => fd);
}

function openSafetyNet(
  { name, settings }: Listener,
  fd: number,
  preserve: Preserve | undefined,
  { log, snapshot }: OpenListenerOptions,
): ForwarderGroup {
  const { batchSize, maxPacketSize } = settings;
  const { gathers } = abilities();
  return new SafetyNet({ log, name, fd, preserve, batchSize, maxPacketSize, gathers, snapshot });
}

function openPool(
  { id, name, settings }: Listener,
  fds: readonly number[],
  preserve: Preserve | undefined,
  { log, snapshot, startThread: start }: OpenListenerOptions,
): ForwarderGroup {
  const { batchSize, maxPacketSize, pinCpus } = settings;
  const { gathers, coalesces } = abilities();
  const cpus = allowedCpus();
  const jobs = fds.map((fd, index) => {
    // Listeners with few workers each do not all begin at the first CPU.
    const cpu = pinCpus ? cpus[(id + index) % cpus.length] : undefined;
    return { fd, index, batchSize, maxPacketSize, preserve, gathers, coalesces, cpu };
  });
  return new WorkerPool({ log, name, jobs, snapshot, start });
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
