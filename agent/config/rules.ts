/** What one key alone cannot tell: rules between keys, sections and listeners. */
import { formatAddress } from '../address.ts';
import { LIMITS } from '../model.ts';
import type { Draft, DraftListener } from './draft.ts';
import { listenerFindings } from './listener-rules.ts';
import type { Locate, Path, PathDiagnostic } from './position.ts';
import { addressOf, repeats } from './repeats.ts';
import { DEFAULTS } from './schema.ts';

/** Everything between keys that is wrong; what the schema refused is left out of the draft and not judged again. */
export function crossFindings(draft: Draft, locate: Locate): readonly PathDiagnostic[] {
  const listeners = draft.listeners ?? [];
  return [
    ...listenerCount(draft),
    ...repeatedNames(listeners, locate),
    ...repeatedBinds(listeners, locate),
    ...metricsPort(draft, locate),
    ...healthTimes(draft),
    ...unprobedResorts(draft),
    ...listeners.flatMap((listener, index) =>
      listener === undefined ? [] : listenerFindings(listener, ['listeners', index], locate),
    ),
  ];
}

function listenerCount(draft: Draft): readonly PathDiagnostic[] {
  const count = draft.listeners?.length;
  if (count === undefined || (count > 0 && count <= LIMITS.listeners)) return [];
  const message = `listeners: has ${count} listeners, want 1 to ${LIMITS.listeners}`;
  return [{ path: ['listeners'], at: 'value', message }];
}

function repeatedNames(listeners: readonly (DraftListener | undefined)[], locate: Locate): readonly PathDiagnostic[] {
  return repeats(listeners.map((listener) => listener?.name)).map(({ index, first, text }) => {
    const path = ['listeners', index, 'name'];
    const { line } = locate(['listeners', first, 'name'], 'value');
    const message = `listeners[${index}].name "${text}": listeners[${first}] in line ${line} has this name, want another`;
    return { path, at: 'value', message };
  });
}

function repeatedBinds(listeners: readonly (DraftListener | undefined)[], locate: Locate): readonly PathDiagnostic[] {
  const binds = listeners.map((listener) => addressOf(listener?.bind));
  return repeats(binds.map((bind) => bind && formatAddress(bind))).map(({ index, first, text }) => {
    const { line } = locate(['listeners', first, 'bind'], 'value');
    const name = listeners[first]?.name;
    const other = `listeners[${first}]${name === undefined ? '' : ` "${name}"`} in line ${line}`;
    const message = `listeners[${index}].bind "${text}": ${other} has this bind, want another address or port`;
    return { path: ['listeners', index, 'bind'], at: 'value', message };
  });
}

/** UDP and TCP ports do not collide, but one number for both is a slip far more often than a plan. */
function metricsPort({ listeners = [], metrics }: Draft, locate: Locate): readonly PathDiagnostic[] {
  if (metrics === undefined || metrics.enabled === false) return [];
  const isWritten = 'bind' in metrics;
  const served = addressOf(isWritten ? metrics.bind : DEFAULTS.metricsBind);
  const path: Path = isWritten ? ['metrics', 'bind'] : ['metrics'];
  const { line } = locate(path, isWritten ? 'value' : 'key');
  return listeners.flatMap((listener, index) => {
    if (served === undefined || addressOf(listener?.bind)?.port !== served.port) return [];
    const where = isWritten
      ? `metrics.bind in line ${line}`
      : `metrics in line ${line} (bind defaults to ${DEFAULTS.metricsBind})`;
    const message = `listeners[${index}].bind "${listener?.bind}": ${where} has port ${served.port} too, want another port`;
    return [{ path: ['listeners', index, 'bind'], at: 'value', message }];
  });
}

function healthTimes({ health }: Draft): readonly PathDiagnostic[] {
  if (health === undefined) return [];
  const interval = 'interval_secs' in health ? health.interval_secs : DEFAULTS.intervalSecs;
  const timeout = 'timeout_secs' in health ? health.timeout_secs : DEFAULTS.timeoutSecs;
  if (interval === undefined || timeout === undefined || timeout < interval) return [];
  if ('timeout_secs' in health) {
    const known = 'interval_secs' in health ? `interval_secs ${interval}` : `interval_secs, by default ${interval}`;
    const message = `health.timeout_secs ${timeout}: want seconds as a number above 0 and below ${known}`;
    return [{ path: ['health', 'timeout_secs'], at: 'value', message }];
  }
  const message = `health.interval_secs ${interval}: want more than timeout_secs, by default ${timeout}, or a lower timeout_secs`;
  return [{ path: ['health', 'interval_secs'], at: 'value', message }];
}

/** Only who answers probes is a last resort: without probes the key would promise what it cannot do. */
function unprobedResorts(draft: Draft): readonly PathDiagnostic[] {
  const { listeners = [], health } = draft;
  if ('health' in draft && health?.enabled !== false) return [];
  return listeners.flatMap((listener, index) => {
    if (listener?.kubernetes?.unready !== 'last_resort') return [];
    const path = ['listeners', index, 'kubernetes', 'unready'];
    const message = `listeners[${index}].kubernetes.unready "last_resort": health is off and nobody is probed, want health or never`;
    return [{ path, at: 'value', message }];
  });
}
