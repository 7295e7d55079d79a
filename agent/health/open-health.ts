/** Health as the config asks for it, or without probes where this machine cannot do them: that harms nobody. */
import { now, setTimer } from '../clock.ts';
import type { Health as HealthConfig } from '../config/load.ts';
import type { Log } from '../log.ts';
import { watchNeighbours } from '../netlink/neighbours.ts';
import { Health, type HealthDependencies } from './health.ts';
import type { Pace } from './monitor.ts';
import { type OpenProber, ProberUnavailable } from './prober.ts';
import { onTicks } from './ticks.ts';
import { openUdpEcho } from './udp-echo.ts';

/** Twenty wakings a second however many downstreams there are. */
const TICK_MS = 50;

const clock: Pick<Pace, 'timer' | 'now' | 'random'> = {
  timer: onTicks(setTimer, now, TICK_MS),
  now,
  random: Math.random,
};

/** The part of Health that others hold. */
export type OpenedHealth = Pick<
  Health,
  'select' | 'start' | 'close' | 'remarks' | 'endpoints' | 'failsOpen' | 'isLastResort' | 'statistics'
>;

/** Never fails: what keeps probes from working is said once, and everything that is ready counts as healthy. */
export async function openHealth({ config, log }: { config: HealthConfig; log: Log }): Promise<OpenedHealth> {
  if (!config.enabled) return new Health({ config, log, clock });
  try {
    const openProber = await proberFor(config.protocol);
    return new Health({ config, log, clock, openProber, watchNeighbours: neighbourWatch(log) });
  } catch (error) {
    if (!(error instanceof ProberUnavailable)) throw error;
    const next = 'health is unknown and all downstreams but unready ones stay in use';
    log.warn(`health probes failed to start: ${error.message}`, { protocol: config.protocol, next });
    return new Health({ config, log, clock, obstacle: error.message });
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
function neighbourWatch(log: Log): NonNullable<HealthDependencies['watchNeighbours']> {
  return (onFailed) => {
    try {
      return watchNeighbours({ onFailed: ({ ip }) => onFailed(ip) });
    } catch (error) {
      log.debug('no notices of failed neighbours', { error: (error as Error).message });
      return { close: () => {} };
    }
  };
}
