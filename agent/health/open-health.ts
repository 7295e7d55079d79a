/** Health as the config asks for it, or without probes where this machine cannot do them: that harms nobody. */
import { now, type Timer } from '../clock.ts';
import type { Health as HealthConfig } from '../config/load.ts';
import type { Part } from '../lifetime.ts';
import type { Log } from '../log.ts';
import { Health, type HealthDependencies } from './health.ts';
import { type OpenProber, ProberUnavailable } from './prober.ts';
import { onTicks } from './ticks.ts';
import { openUdpEcho } from './udp-echo.ts';
import { openUdpPort, withoutEcho } from './udp-port.ts';

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
  readonly reachability: HealthDependencies['reachability'];
  readonly wasOut: HealthDependencies['wasOut'];
  readonly statistics: HealthDependencies['statistics'];
}

/** Never fails: what keeps probes from working is said once, and everything that is ready counts as healthy. */
export async function openHealth(dependencies: OpenHealthDependencies): Promise<OpenedHealth> {
  const { config, log, reachability, wasOut, statistics, timer, guard } = dependencies;
  const clock = { timer: onTicks(timer, now, TICK_MS), now, random: Math.random };
  const shared = {
    ...{ config, log, reachability, guard, clock },
    ...(wasOut && { wasOut }),
    ...(statistics && { statistics }),
  };
  if (!config.enabled) return new Health(shared);
  const { openProber, lack } = await proberFor(config, clock.timer);
  const { protocol } = config;
  if (lack) log.warn(`health probes failed to start: ${lack.obstacle}`, { protocol, next: lack.next });
  return new Health({ ...shared, ...(openProber && { openProber }), ...(lack && { obstacle: lack.obstacle }) });
}

/** How to probe, or as much of it as this machine can do. */
interface Probing {
  readonly openProber?: OpenProber;
  /** What keeps it from the rest, and what follows. */
  readonly lack?: { readonly obstacle: string; readonly next: string };
}

async function proberFor({ protocol, timeoutSecs }: HealthConfig, timer: Timer): Promise<Probing> {
  if (protocol === 'udp_echo') return { openProber: openUdpEcho };
  const openEcho = await echoProber();
  const settings = { timer, timeoutMs: timeoutSecs * 1000 };
  if (!(openEcho instanceof ProberUnavailable)) {
    return { openProber: protocol === 'icmp' ? openEcho : openUdpPort(openEcho, settings) };
  }
  const obstacle = openEcho.message;
  if (protocol === 'icmp') {
    return { lack: { obstacle, next: 'health is unknown and all downstreams but unready ones stay in use' } };
  }
  const next = 'a closed port is still noticed, a host that is gone is not';
  return { openProber: openUdpPort(withoutEcho(obstacle), settings), lack: { obstacle, next } };
}

/** Echo requests, or why this machine has none. */
async function echoProber(): Promise<OpenProber | ProberUnavailable> {
  const [{ openIcmp }, { loadRawSocket, rawSocketFailure }] = await Promise.all([
    import('./icmp.ts'),
    import('./echo-socket.ts'),
  ]);
  try {
    const openSocket = await loadRawSocket();
    try {
      return openIcmp(openSocket);
    } catch (error) {
      return rawSocketFailure(error as Error);
    }
  } catch (error) {
    if (error instanceof ProberUnavailable) return error;
    throw error;
  }
}
