/** What a config asks of the machine, so that a finding can tell a fault from something that nobody uses. */
import type { SocketAddress } from '../address.ts';
import type { Config } from '../config/load.ts';
import type { Listener } from '../model.ts';
import type { Level } from './finding.ts';

export interface Requirements {
  /** `must`: a listener of `mode: tc_ebpf`. `may`: one of mode auto, which falls back. `no`: all are userspace. */
  readonly kernelPath: 'must' | 'may' | 'no';
  /** Some listener is sure to be served by worker threads. */
  readonly userspace: boolean;
  /** ICMP health checks. */
  readonly icmp: boolean;
  readonly listeners: readonly Listener[];
  /** Where metrics are served. */
  readonly metrics?: SocketAddress;
}

/** Without a config: the kernel path, on whatever interface. */
export const NO_CONFIG: Requirements = { kernelPath: 'must', userspace: false, icmp: false, listeners: [] };

export function requirementsOf({ listeners, health, metrics }: Config): Requirements {
  const has = (mode: Listener['mode']) => listeners.some((listener) => listener.mode === mode);
  return {
    kernelPath: has('tc_ebpf') ? 'must' : has('auto') ? 'may' : 'no',
    userspace: has('userspace'),
    icmp: health.enabled && health.protocol === 'icmp',
    listeners,
    ...(metrics.enabled && { metrics: metrics.bind }),
  };
}

/** How bad it is that the kernel path does not work here. */
export function withoutKernelPath({ kernelPath }: Pick<Requirements, 'kernelPath'>): Level {
  return kernelPath === 'must' ? 'fail' : kernelPath === 'may' ? 'warn' : 'ok';
}

/** The names of the interfaces that listeners of the kernel path name, each once. */
export function interfaceNames(listeners: readonly Listener[]): string[] {
  return [...new Set(kernelListeners(listeners).flatMap(({ interfaces }) => interfaces))];
}

export function kernelListeners(listeners: readonly Listener[]): readonly Listener[] {
  return listeners.filter(({ mode }) => mode !== 'userspace');
}
