/** What the log and /readyz say of health; the operator's guide greps for `health.*failed`. */
import { BOTH_FAMILIES, type Family, formatAddress } from '../address.ts';
import type { Log } from '../log.ts';
import type { LogLimiter } from '../log-limit.ts';
import type { Endpoint, Listener } from '../model.ts';
import type { ListenerHealth } from './listener-health.ts';
import type { CountedEnd } from './round.ts';
import type { HealthState, Thresholds } from './state.ts';

/** One round of one downstream, as one of its listeners sees it. */
export interface RoundReport {
  readonly listener: Listener;
  readonly endpoint: Endpoint;
  readonly protocol: string;
  readonly before: HealthState;
  readonly after: HealthState;
  readonly end: CountedEnd;
  readonly thresholds: Thresholds;
  /** The probes of all of the listener's endpoints of this family failed. */
  readonly allDown: boolean;
  readonly failOpen: boolean;
  /** It is not ready and others are: nothing follows from its probes now. */
  readonly isStandby: boolean;
}

const STANDBY = 'out of use, as it is not ready and others are';

/** Says what went wrong and what follows from it, or that a downstream is back; nothing where all is well as before. */
export function announceRound(log: Log, alerts: LogLimiter, report: RoundReport): void {
  const { listener, endpoint, protocol, before, after, end, isStandby } = report;
  const name = endpoint.name === undefined ? {} : { name: endpoint.name };
  const fields = { listener: listener.name, downstream: formatAddress(endpoint.address), ...name, protocol };
  if (end.outcome === 'unanswered') {
    // That it is down was said, and what brings it back.
    const complain = before.condition === 'down' || isStandby ? log.debug : log.warn;
    complain('health probe failed', { ...fields, cause: end.cause, next: nextOf(report) });
  } else if (end.outcome === 'unsent') {
    const alert = {
      message: 'health probe failed to leave this host',
      fields: {
        ...fields,
        cause: end.cause,
        next: `${endpoint.unready ? 'out of' : 'in'} use, as nothing is known of it`,
      },
    };
    // The trouble is this host's: said once, not for each of a thousand downstreams.
    if (!alerts.raise(unsent(end.cause), alert)) log.debug(alert.message, alert.fields);
  } else if (before.condition === 'down' && after.condition === 'up') {
    const say = isStandby ? log.debug : log.info;
    say('health recovered', { ...fields, answered: after.streak, next: isStandby ? STANDBY : 'in use again' });
  }
}

/** Says that no probe is kept on this host for this cause any more. */
export function announceSent(alerts: LogLimiter, cause: string): void {
  alerts.resolve(unsent(cause), { message: 'health probes leave this host again', fields: { cause } });
}

function unsent(cause: string): string {
  return `unsent ${cause}`;
}

function nextOf({ endpoint, after, allDown, failOpen, isStandby, thresholds: { fall, rise } }: RoundReport): string {
  if (isStandby) return STANDBY;
  if (endpoint.unready && after.condition === 'unknown') return 'out of use until a probe is answered';
  if (after.condition !== 'down') return `in use until ${fall} probes in a row have failed, ${after.streak} so far`;
  if (allDown && failOpen) return 'in use, as the probes of all downstreams failed (fail_open)';
  return rise === 1 ? 'out of use until a probe is answered' : `out of use until ${rise} probes in a row are answered`;
}

/** Says of a family of a listener whether all are down, and whether none is ready; or that this is over. */
export function announceFamily(alerts: LogLimiter, health: ListenerHealth, family: Family, failOpen: boolean): void {
  announceAllDown(alerts, health, family, failOpen);
  announceUnready(alerts, health, family);
}

/** The listener is gone, and what was said of it with it. */
export function forgetListener(alerts: LogLimiter, name: string): void {
  for (const family of BOTH_FAMILIES) {
    alerts.forget(allDown(name, family));
    alerts.forget(noneReady(name, family));
  }
}

const allDown = (name: string, family: Family) => `down ${name} ${family}`;
const noneReady = (name: string, family: Family) => `unready ${name} ${family}`;

function announceAllDown(alerts: LogLimiter, health: ListenerHealth, family: Family, failOpen: boolean): void {
  const { listener, counts } = health;
  const fields = { listener: listener.name, family: `IPv${family}` };
  const subject = allDown(listener.name, family);
  const follows = failOpen ? 'all stay in use (fail_open)' : 'none is in use (fail_open is off)';
  if (counts.isDown(family))
    alerts.raise(subject, { message: `health probes of all downstreams failed: ${follows}`, fields });
  else
    alerts.resolve(subject, { message: failOpen ? 'health fail open ended' : 'health has downstreams again', fields });
}

function announceUnready(alerts: LogLimiter, health: ListenerHealth, family: Family): void {
  const { listener, counts, saidLastResort } = health;
  const subject = noneReady(listener.name, family);
  const endpoints = counts.chosen(family);
  const fields = { listener: listener.name, family: `IPv${family}`, endpoints };
  const ended = saidLastResort.has(family) ? ', last_resort ended' : '';
  if (counts.isLastResort(family)) {
    const message = 'no endpoint is ready: unready ones that answer health probes are in use (last_resort)';
    alerts.raise(subject, { message, fields });
    saidLastResort.add(family);
    return;
  }
  saidLastResort.delete(family);
  if (counts.isUnserved(family)) {
    const message = 'no endpoint is ready, and no unready one has answered a health probe: none is in use';
    alerts.raise(subject, { message, fields });
  } else {
    // Those that are ready may all be down, and none in use.
    const isReady = endpoints > 0 || counts.isDown(family);
    alerts.resolve(subject, {
      message: `${isReady ? 'endpoints are ready again' : 'no endpoint is left'}${ended}`,
      fields,
    });
  }
}

/** What /readyz says beside `ok`. */
export function remarksOf({ listener, counts }: ListenerHealth, failOpen: boolean): readonly string[] {
  const { down, lastResort, unserved } = counts.families();
  const follows = failOpen ? 'all stay in use (fail_open)' : 'none is in use (fail_open is off)';
  const say = (families: readonly Family[], words: (family: string) => string) =>
    families.map((family) => `health(${listener.name}): ${words(`IPv${family}`)}`);
  return [
    ...say(down, (family) => `the probes of all ${family} downstreams failed: ${follows}`),
    ...say(lastResort, (family) => `no ${family} endpoint is ready: unready ones are in use (last_resort)`),
    ...say(unserved, (family) => `no ${family} endpoint is ready, and no unready one answers: none is in use`),
  ];
}
