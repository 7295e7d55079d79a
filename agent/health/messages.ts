/** What the log and /readyz say of health; the operator's guide greps for `health.*failed`. */
import { type Family, formatAddress } from '../address.ts';
import type { Log } from '../log.ts';
import type { LogLimiter } from '../log-limit.ts';
import type { Endpoint, Listener } from '../model.ts';
import type { CountedEnd } from './round.ts';
import type { Selection } from './selection.ts';
import type { HealthState, Thresholds } from './state.ts';

/** One round of one downstream, as one of its listeners sees it. */
export interface News {
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
export function announceRound(log: Log, alerts: LogLimiter, news: News): void {
  const { listener, endpoint, protocol, before, after, end, isStandby } = news;
  const name = endpoint.name === undefined ? {} : { name: endpoint.name };
  const fields = { listener: listener.name, downstream: formatAddress(endpoint.address), ...name, protocol };
  if (end.outcome === 'unanswered') {
    // That it is down was said, and what brings it back.
    const complain = before.condition === 'down' || isStandby ? log.debug : log.warn;
    complain('health probe failed', { ...fields, cause: end.cause, next: nextOf(news) });
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

function nextOf({ endpoint, after, allDown, failOpen, isStandby, thresholds: { fall, rise } }: News): string {
  if (isStandby) return STANDBY;
  if (endpoint.unready && after.condition === 'unknown') return 'out of use until a probe is answered';
  if (after.condition !== 'down') return `in use until ${fall} probes in a row have failed, ${after.streak} so far`;
  if (allDown && failOpen) return 'in use, as the probes of all downstreams failed (fail_open)';
  return rise === 1 ? 'out of use until a probe is answered' : `out of use until ${rise} probes in a row are answered`;
}

/** Says that the last downstream of a family went down, or that it is no longer so. */
export function announceAllDown(
  alerts: LogLimiter,
  listener: Listener,
  family: Family,
  down: boolean,
  failOpen: boolean,
): void {
  const fields = { listener: listener.name, family: `IPv${family}` };
  const subject = `down ${listener.id} ${family}`;
  const follows = failOpen ? 'all stay in use (fail_open)' : 'none is in use (fail_open is off)';
  if (down) alerts.raise(subject, { message: `health probes of all downstreams failed: ${follows}`, fields });
  else
    alerts.resolve(subject, { message: failOpen ? 'health fail open ended' : 'health has downstreams again', fields });
}

/** Says that none of a family's endpoints is ready, and what is in use then; or that this is over; `before` is the choice until now. */
export function announceUnready(
  alerts: LogLimiter,
  listener: Listener,
  family: Family,
  choice: Selection,
  before: Selection | undefined,
): void {
  const subject = `unready ${listener.id} ${family}`;
  const endpoints = choice.downstreams.filter(({ address }) => address.family === family).length;
  const fields = { listener: listener.name, family: `IPv${family}`, endpoints };
  if (choice.lastResort.includes(family)) {
    const message = 'no endpoint is ready: unready ones that answer health probes are in use (last_resort)';
    alerts.raise(subject, { message, fields });
  } else if (choice.unserved.includes(family)) {
    const message = 'no endpoint is ready, and no unready one has answered a health probe: none is in use';
    alerts.raise(subject, { message, fields });
  } else {
    // Those that are ready may all be down, and none in use.
    const isReady = endpoints > 0 || choice.down.includes(family);
    const ended = before?.lastResort.includes(family) ? ', last_resort ended' : '';
    alerts.resolve(subject, {
      message: `${isReady ? 'endpoints are ready again' : 'no endpoint is left'}${ended}`,
      fields,
    });
  }
}

/** What /readyz says beside `ok`. */
export function remarksOf(listener: Listener, choice: Selection, failOpen: boolean): readonly string[] {
  const follows = failOpen ? 'all stay in use (fail_open)' : 'none is in use (fail_open is off)';
  const say = (families: readonly Family[], words: (family: string) => string) =>
    families.map((family) => `health(${listener.name}): ${words(`IPv${family}`)}`);
  return [
    ...say(choice.down, (family) => `the probes of all ${family} downstreams failed: ${follows}`),
    ...say(choice.lastResort, (family) => `no ${family} endpoint is ready: unready ones are in use (last_resort)`),
    ...say(choice.unserved, (family) => `no ${family} endpoint is ready, and no unready one answers: none is in use`),
  ];
}
