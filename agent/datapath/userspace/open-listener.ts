/** Opens a listener: its sockets, and threads or, for the safety net, this thread to serve them. */
import { missingCapabilities } from '../../capabilities.ts';
import { libc } from '../../ffi/libc.ts';
import { hasCoalescing, hasSegmentation } from '../../kernel/features.ts';
import type { Log } from '../../log.ts';
import type { Listener } from '../../model.ts';
import { BatchBuffers } from './forward/batch-buffers.ts';
import type { Preserve } from './forward/source-paths.ts';
import { SafetyNet } from './safety-net.ts';
import type { TableSnapshot } from './snapshot.ts';
import { type ListenerSocket, mayBeRaw, mayBeTransparent, openListenerSocket } from './sockets/open.ts';
import { allowedCpus } from './workers/cpus.ts';
import { type ForwarderGroup, type StartThread, WorkerPool } from './workers/pool.ts';

/** `source: preserve` is asked for and this process may not. */
export class PreserveImpossible extends Error {
  override readonly name = 'PreserveImpossible';
}

export interface ListenerOpenerDependencies {
  readonly log: Log;
  /** Says a line, but only once. */
  readonly once: (level: 'info' | 'warn', line: string) => void;
  readonly isSafetyNet: (listener: Listener) => boolean;
  readonly startThread: StartThread | undefined;
}

export interface Opened {
  readonly fds: readonly number[];
  readonly serve: (snapshot: TableSnapshot) => ForwarderGroup;
}

/** What this process may do, and what the kernel knows (kernel/features.ts). */
interface Abilities {
  readonly transparent: boolean;
  readonly raw: boolean;
  readonly gathers: boolean;
  readonly coalesces: boolean;
  readonly cpus: readonly number[];
}

export class ListenerOpener {
  readonly #deps: ListenerOpenerDependencies;
  readonly #pools = new Map<string, BatchBuffers>();
  #abilities: Abilities | undefined;

  constructor(dependencies: ListenerOpenerDependencies) {
    this.#deps = dependencies;
  }

  /** How many sockets, and forwarders, a listener has. */
  forwarders(listener: Listener): number {
    return this.#deps.isSafetyNet(listener) ? 1 : listener.settings.workers || this.#able.cpus.length;
  }

  /** Binds a listener's sockets; `serve` starts what forwards from them. Throws SystemError, PreserveImpossible. */
  open(listener: Listener): Opened {
    const preserve = this.#preserve(listener);
    const fds = this.#bind(listener);
    const serve = (snapshot: TableSnapshot) =>
      this.#deps.isSafetyNet(listener)
        ? this.#safetyNet(listener, fds[0]!, preserve, snapshot)
        : this.#pool(listener, fds, preserve, snapshot);
    return { fds, serve };
  }

  #bind(listener: Listener): readonly number[] {
    const { name, bind, settings } = listener;
    const sockets: ListenerSocket[] = [];
    const safetyNet = this.#deps.isSafetyNet(listener);
    const blocking = !safetyNet;
    // A socket with UDP_GRO has the kernel merge a flow's datagrams as early as on the NIC, before the kernel path's
    // program sees them: whole bursts would go to one downstream.
    const coalesces = !safetyNet && this.#able.coalesces;
    try {
      while (sockets.length < this.forwarders(listener)) {
        sockets.push(openListenerSocket(bind, { receiveBuffer: settings.recvBufSize, blocking, coalesces }));
      }
    } catch (error) {
      for (const { fd } of sockets) libc.close(fd);
      throw error;
    }
    const clamped = sockets[0]?.clamped;
    if (clamped) {
      const got = `receive buffer of listener "${name}": asked for ${clamped.asked} bytes, got ${clamped.got}`;
      this.#deps.once('warn', `${got}: raise the sysctl net.core.rmem_max, or add the capability NET_ADMIN`);
    }
    return sockets.map(({ fd }) => fd);
  }

  #safetyNet(
    { name, settings }: Listener,
    fd: number,
    preserve: Preserve | undefined,
    snapshot: TableSnapshot,
  ): ForwarderGroup {
    const { batchSize, maxPacketSize } = settings;
    const { gathers } = this.#able;
    const buffers = () => this.#buffers(batchSize, maxPacketSize);
    return new SafetyNet({ log: this.#deps.log, name, fd, preserve, maxPacketSize, gathers, snapshot, buffers });
  }

  #pool(
    { id, name, settings }: Listener,
    fds: readonly number[],
    preserve: Preserve | undefined,
    snapshot: TableSnapshot,
  ): ForwarderGroup {
    const { batchSize, maxPacketSize, pinCpus } = settings;
    const { gathers, coalesces, cpus } = this.#able;
    const jobs = fds.map((fd, index) => {
      // Listeners with few workers each do not all begin at the first CPU.
      const cpu = pinCpus ? cpus[(id + index) % cpus.length] : undefined;
      return { fd, index, batchSize, maxPacketSize, preserve, gathers, coalesces, cpu };
    });
    const { log, startThread: start } = this.#deps;
    return new WorkerPool({ log, name, jobs, snapshot, ...(start && { start }) });
  }

  /** How sources are kept; undefined for nat. */
  #preserve({ name, source, settings }: Listener): Preserve | undefined {
    const { transparent, raw } = this.#able;
    if (source === 'nat') return undefined;
    if (transparent || raw) return { transparent, raw, maxSources: settings.maxSources };
    const missing = missingCapabilities(['NET_ADMIN', 'NET_RAW']).join(', ') || 'NET_ADMIN, NET_RAW';
    const lack = `missing capability ${missing}`;
    if (source === 'preserve') throw new PreserveImpossible(`listener "${name}": source: preserve: ${lack}`);
    this.#deps.once('info', `sources are not preserved, downstreams see this node's address (nat): ${lack}`);
    return undefined;
  }

  /** Shared by the safety nets of this thread, since no two of them are ever at work at once. */
  #buffers(batchSize: number, maxPacketSize: number): BatchBuffers {
    const key = `${batchSize} ${maxPacketSize}`;
    const buffers = this.#pools.get(key) ?? new BatchBuffers(batchSize, maxPacketSize, false);
    this.#pools.set(key, buffers);
    return buffers;
  }

  /** Asked when the first listener opens: an agent on the kernel path alone without a safety net needs none of it. */
  get #able(): Abilities {
    this.#abilities ??= {
      transparent: mayBeTransparent(),
      raw: mayBeRaw(),
      gathers: hasSegmentation(),
      coalesces: hasCoalescing(),
      cpus: allowedCpus(),
    };
    return this.#abilities;
  }
}
