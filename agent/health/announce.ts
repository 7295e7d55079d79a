/** What the log and /readyz say of health; the operator's guide greps for `health.*failed`. */
import { type Family, formatAddress } from '../address.ts';
import type { Log } from '../log.ts';
import type { Endpoint, Listener } from '../model.ts';
import type { Standing, Thresholds } from './condition.ts';
import type { CountedEnd } from './round.ts';

/** One round of one downstream, as one of its listeners sees it. */
export interface News {
  readonly listener: Listener;
  readonly endpoint: Endpoint;
  readonly protocol: string;
  readonly before: Standing;
  readonly after: Standing;
  readonly end: CountedEnd;
  readonly thresholds: Thresholds;
  /** The probes of all of the listener's endpoints of this family failed. */
  readonly allDown: boolean;
  readonly failOpen: boolean;
  /** It was said already: not for everybody again. */
  readonly repeated: boolean;
}

/** Says what went wrong and what follows from it, or that a downstream is back; nothing where all is well as before. */
export function announceRound(log: Log, news: News): void {
  const { listener, endpoint, protocol, before, after, end, repeated } = news;
  const name = endpoint.name === undefined ? {} : { name: endpoint.name };
  const fields = { listener: listener.name, downstream: formatAddress(endpoint.address), ...name, protocol };
  const complain = repeated ? log.debug : log.warn;
  if (end.outcome === 'unanswered') {
    complain('health probe failed', { ...fields, cause: end.cause, next: nextOf(news) });
  } else if (end.outcome === 'unsent') {
    const next = 'in use, as nothing is known of it';
    complain('health probe failed to leave this host', { ...fields, cause: end.cause, next });
  } else if (before.condition === 'down' && after.condition === 'up') {
    log.info('health recovered', { ...fields, answered: after.streak, next: 'in use again' });
  }
}

function nextOf({ after, allDown, failOpen, thresholds: { fall, rise } }: News): string {
  if (after.condition !== 'down') return `in use until ${fall} probes in a row have failed, ${after.streak} so far`;
  if (allDown && failOpen) return 'in use, as the probes of all downstreams failed (fail_open)';
  return rise === 1 ? 'out of use until a probe is answered' : `out of use until ${rise} probes in a row are answered`;
}

/** Says that the last downstream of a family went down, or that it is no longer so. */
export function announceAllDown(log: Log, listener: Listener, family: Family, down: boolean, failOpen: boolean): void {
  const fields = { listener: listener.name, family: `IPv${family}` };
  if (!down) log.info(failOpen ? 'health fail open ended' : 'health has downstreams again', fields);
  else if (failOpen) log.warn('health probes of all downstreams failed: all stay in use (fail_open)', fields);
  else log.warn('health probes of all downstreams failed: none is in use (fail_open is off)', fields);
}

/** What /readyz says beside `ok`. */
export function remarkOf(listener: Listener, family: Family, failOpen: boolean): string {
  const follows = failOpen ? 'all stay in use (fail_open)' : 'none is in use (fail_open is off)';
  return `health(${listener.name}): the probes of all IPv${family} downstreams failed: ${follows}`;
}
