/** Health as the config asks for it, or without probes where this machine cannot do them: that harms nobody. */
import { now, type Ticker } from '../clock.ts';
import type { Health as HealthConfig } from '../config/load.ts';
import type { Part } from '../lifetime.ts';
import type { Log } from '../log.ts';
import { watchNeighbours } from '../netlink/neighbours.ts';
import { Health, type HealthDependencies } from './health.ts';
import { type OpenProber, ProberUnavailable } from './prober.ts';
import { onTicks } from './ticks.ts';
import { openUdpEcho } from './udp-echo.ts';

/** Twenty wakings a second however many downstreams there are. */
const TICK_MS = 50;

/** The part of Health that others hold. */
export type OpenedHealth = Pick<
  Health,
  | 'keep'
  | 'select'
  | 'start'
  | 'close'
  | 'remarks'
  | 'endpoints'
  | 'listeners'
  | 'failsOpen'
  | 'isLastResort'
  | 'statistics'
>;

export interface OpenHealthDependencies extends Part {
  readonly config: HealthConfig;
  readonly log: Log;
}

/** Never fails: what keeps probes from working is said once, and everything that is ready counts as healthy. */
export async function openHealth({ config, log, timer, ticker, guard }: OpenHealthDependencies): Promise<OpenedHealth> {
  const shared = { config, log, guard, clock: { timer: onTicks(timer, now, TICK_MS), now, random: Math.random } };
  if (!config.enabled) return new Health(shared);
  try {
    const openProber = await proberFor(config.protocol);
    return new Health({ ...shared, openProber, watchNeighbours: neighbourWatch(log, ticker) });
  } catch (error) {
    if (!(error instanceof ProberUnavailable)) throw error;
    const next = 'health is unknown and all downstreams but unready ones stay in use';
    log.warn(`health probes failed to start: ${error.message}`, { protocol: config.protocol, next });
    return new Health({ ...shared, obstacle: error.message });
  }
}

async function proberFor(protocol: HealthConfig['protocol']): Promise<OpenProber> {
  if (protocol === 'udp_echo') return openUdpEcho;
  const [{ openIcmp }, { loadRawSocket, rawSocketFailure }] = await Promise.all([
    import('./icmp.ts'),
    import('./echo-socket.ts'),
  ]);
  const openSocket = await loadRawSocket();
  try {
    return openIcmp(openSocket);
  } catch (error) {
    throw rawSocketFailure(error as Error);
  }
}

/** Failed neighbours only bring a probe forward: where there are no notices of them, nothing worth a warning is lost. */
function neighbourWatch(log: Log, ticker: Ticker): NonNullable<HealthDependencies['watchNeighbours']> {
  return (onFailed) => {
    try {
      return watchNeighbours({ onFailed: ({ ip }) => onFailed(ip) }, { ticker });
    } catch (error) {
      log.debug('no notices of failed neighbours', { error: (error as Error).message });
      return { close: () => {} };
    }
  };
}
