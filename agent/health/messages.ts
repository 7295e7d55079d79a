/** What the log and /readyz say of health; the operator's guide greps for `health.*failed`. */
import { BOTH_FAMILIES, type Family, formatAddress } from '../address.ts';
import type { Log } from '../log.ts';
import type { LogLimiter } from '../log-limit.ts';
import type { Endpoint, Listener } from '../model.ts';
import type { ListenerHealth, Target } from './listener-health.ts';
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
  /** Why this host cannot reach it, whatever its probes say. */
  readonly lost: string | undefined;
}

const OUT_OF_REACH = 'out of use until there is a way to it';
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
    const next = isStandby ? STANDBY : report.lost === undefined ? 'in use again' : OUT_OF_REACH;
    say('health recovered', { ...fields, answered: after.streak, next });
  }
}

/** Says that no probe is kept on this host for this cause any more. */
export function announceSent(alerts: LogLimiter, cause: string): void {
  alerts.resolve(unsent(cause), { message: 'health probes leave this host again', fields: { cause } });
}

function unsent(cause: string): string {
  return `unsent ${cause}`;
}

function nextOf({
  endpoint,
  after,
  lost,
  allDown,
  failOpen,
  isStandby,
  thresholds: { fall, rise },
}: RoundReport): string {
  if (isStandby) return STANDBY;
  if (endpoint.unready && after.condition === 'unknown') return 'out of use until a probe is answered';
  if (after.condition !== 'down') return `in use until ${fall} probes in a row have failed, ${after.streak} so far`;
  if (allDown && failOpen) return 'in use, as the probes of all downstreams failed (fail_open)';
  if (lost !== undefined) return OUT_OF_REACH;
  return rise === 1 ? 'out of use until a probe is answered' : `out of use until ${rise} probes in a row are answered`;
}

/** Says that this host has no way to a downstream, as far as the kernel knows, and why; or that it has one again. */
export function announcePath(alerts: LogLimiter, target: Target, failOpen: boolean): void {
  const { lost, monitor, users } = target;
  const watched = [...users].filter(({ owner, endpoint }) => !owner.counts.isStandby(endpoint));
  const fields = {
    listener: [...new Set(watched.map(({ owner }) => owner.listener.name))].join(','),
    downstream: [...new Set(watched.map(({ endpoint }) => formatAddress(endpoint.address)))].join(','),
  };
  if (lost === undefined) {
    const next = monitor?.state.condition === 'down' ? 'out of use until its probes are answered' : 'in use again';
    alerts.resolve(path(target), { message: 'health path recovered', fields: { ...fields, next } });
  } else if (watched.length > 0) {
    const staysIn = failOpen && watched.every(({ owner, endpoint }) => owner.counts.isDown(endpoint.address.family));
    const next = staysIn ? 'in use, as all downstreams failed (fail_open)' : OUT_OF_REACH;
    alerts.raise(path(target), {
      message: 'health path failed',
      fields: { ...fields, cause: lost, next },
      cause: lost,
    });
  }
}

/** Nobody has the downstream any more. */
export function forgetPath(alerts: LogLimiter, target: Target): void {
  alerts.forget(path(target));
}

const path = ({ key }: Target) => `path ${key}`;

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
    alerts.raise(subject, { message: `${ALL_FAILED[signsOf(health, family)]}: ${follows}`, fields });
  else
    alerts.resolve(subject, { message: failOpen ? 'health fail open ended' : 'health has downstreams again', fields });
}

const ALL_FAILED = {
  probes: 'health probes of all downstreams failed',
  paths: 'health paths of all downstreams failed',
  'probes and paths': 'health probes and paths of all downstreams failed',
} as const;

/** By what all ready endpoints of a family are known to be down. */
function signsOf({ watched }: ListenerHealth, family: Family): keyof typeof ALL_FAILED {
  const ready = watched.filter(({ endpoint }) => endpoint.address.family === family && !endpoint.unready);
  const lost = ready.filter(({ target }) => target.lost !== undefined);
  if (lost.length === 0) return 'probes';
  return lost.length === ready.length ? 'paths' : 'probes and paths';
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
export function remarksOf(health: ListenerHealth, failOpen: boolean): readonly string[] {
  const { listener, counts } = health;
  const { down, lastResort, unserved } = counts.families();
  const follows = failOpen ? 'all stay in use (fail_open)' : 'none is in use (fail_open is off)';
  const say = (families: readonly Family[], words: (family: string) => string) =>
    families.map((family) => `health(${listener.name}): ${words(`IPv${family}`)}`);
  return [
    ...down.map(
      (family) =>
        `health(${listener.name}): the ${signsOf(health, family)} of all IPv${family} downstreams failed: ${follows}`,
    ),
    ...lostRemark(health),
    ...say(lastResort, (family) => `no ${family} endpoint is ready: unready ones are in use (last_resort)`),
    ...say(unserved, (family) => `no ${family} endpoint is ready, and no unready one answers: none is in use`),
  ];
}

/** Those named; the others are counted. */
const MOST_NAMED = 3;

function lostRemark({ listener, watched, counts }: ListenerHealth): readonly string[] {
  const lost = watched.filter(({ target, endpoint }) => target.lost !== undefined && !counts.isStandby(endpoint));
  if (lost.length === 0) return [];
  const named = lost
    .slice(0, MOST_NAMED)
    .map(({ endpoint, target }) => `${formatAddress(endpoint.address)} (${target.lost})`);
  const more = lost.length > MOST_NAMED ? ` and ${lost.length - MOST_NAMED} more` : '';
  return [`health(${listener.name}): no way to ${named.join(', ')}${more}`];
}
