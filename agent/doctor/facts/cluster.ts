/** Asks the API server just what the agent would: a list and a watch for each Service, and no more. */
import { openSliceApi, type SliceApi } from '../../discovery/api.ts';
import { openCredentials } from '../../discovery/credentials.ts';
import { resolveEndpoints } from '../../discovery/endpoints.ts';
import { ApiFailure } from '../../discovery/failure.ts';
import { missingRole } from '../../discovery/rbac-hint.ts';
import { readSlice } from '../../discovery/slice.ts';
import type { Endpoint, Listener } from '../../model.ts';
import type { Refusal, ServiceFacts } from '../cluster.ts';

const LIST_MS = 10_000;
const WATCH_MS = 5000;

export interface Answer {
  readonly facts: ServiceFacts;
  /** By listener's name. */
  readonly endpoints: readonly (readonly [listener: string, endpoints: readonly Endpoint[]])[];
}

/** One answer for each listener that names a Service. */
export async function readCluster(
  listeners: readonly Listener[],
  api: SliceApi = openSliceApi(openCredentials()),
): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (const listener of listeners) {
    if (listener.endpoints.kind === 'kubernetes') answers.push(await ask(listener, api));
    // What cannot be reached once is not asked for each Service of a long config.
    const last = answers.at(-1)?.facts.refused.list?.cause;
    if (last === 'unreachable' || last === 'timeout' || last === 'credentials') break;
  }
  return answers;
}

async function ask({ name, endpoints: spec }: Listener, api: SliceApi): Promise<Answer> {
  if (spec.kind !== 'kubernetes') throw new TypeError(`listener "${name}" names no Service`);
  const { namespace, service, port } = spec;
  const selection = { namespace, service };
  const none = { namespace, service, slices: 0, endpoints: 0, remarks: [] };
  const list = await attempt(namespace, () => api.list(selection, AbortSignal.timeout(LIST_MS)));
  if ('refusal' in list) return { facts: { ...none, refused: { list: list.refusal } }, endpoints: [] };
  const watch = await attempt(namespace, () => openWatch(api, selection, list.value.resourceVersion));
  const slices = list.value.items.map(readSlice).filter((slice) => slice !== undefined);
  const { endpoints, remarks } = resolveEndpoints(slices, port);
  const refused = 'refusal' in watch ? { watch: watch.refusal } : {};
  const facts = { namespace, service, refused, slices: slices.length, endpoints: endpoints.length, remarks };
  return { facts, endpoints: [[name, endpoints]] };
}

/** Over as soon as the watch stands. */
async function openWatch(api: SliceApi, selection: { namespace: string; service: string }, from: string) {
  const opened = new AbortController();
  const nothing = () => {};
  const options = { from, timeoutSeconds: 1, onOpen: () => opened.abort(), onBytes: nothing, onEvent: nothing };
  const signal = AbortSignal.any([opened.signal, AbortSignal.timeout(WATCH_MS)]);
  await api.watch(selection, options, signal).catch((error) => {
    if (!opened.signal.aborted) throw error;
  });
}

/** An API server of before 1.21 has v1beta1 alone: the first answer is "not found", the second one counts. */
async function attempt<T>(namespace: string, ask: () => Promise<T>): Promise<{ value: T } | { refusal: Refusal }> {
  for (let last = false; ; last = true) {
    try {
      return { value: await ask() };
    } catch (error) {
      if (error instanceof ApiFailure && error.reason === 'not_found' && !last) continue;
      return { refusal: refusalOf(namespace, error) };
    }
  }
}

function refusalOf(namespace: string, error: unknown): Refusal {
  if (!(error instanceof ApiFailure)) {
    const { name, message } = error as Error;
    return { cause: name === 'TimeoutError' ? 'timeout' : 'unreachable', message };
  }
  const { reason, message } = error;
  return { cause: reason, message, ...(reason === 'forbidden' && { role: missingRole(namespace, message) }) };
}
