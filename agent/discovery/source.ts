/** Where endpoints come from, whatever the kind. */
import type { Log } from '../log.ts';
import type { Endpoint, Listener } from '../model.ts';
import { openStaticSource } from './static.ts';
import type { StreamStatus } from './stream.ts';

export interface EndpointSource {
  /**
   * The listener's endpoints that may receive now, and, where it wants them as the last resort, those that are not
   * ready; undefined as long as nobody knows.
   */
  endpoints(listener: Listener): readonly Endpoint[] | undefined;
  close(): void;
}

/** A source whose answers change. */
export interface LiveSource extends EndpointSource {
  /** Begins to look; `onChange` may be called at any time from then on. */
  start(onChange: () => void): void;
  status(): readonly StreamStatus[];
}

/** The endpoints of listeners of both kinds. What speaks to Kubernetes is loaded only where a listener wants it. */
export async function openSource(dependencies: {
  readonly listeners: readonly Listener[];
  readonly log: Log;
}): Promise<LiveSource> {
  const fixed = openStaticSource();
  const wanted = dependencies.listeners.some(({ source }) => source.kind === 'kubernetes');
  const live = wanted ? (await import('./kubernetes.ts')).openKubernetesSource(dependencies) : undefined;
  return {
    endpoints: (listener) => (listener.source.kind === 'static' ? fixed : live)?.endpoints(listener),
    start: (onChange) => live?.start(onChange),
    status: () => live?.status() ?? [],
    close: () => {
      live?.close();
      fixed.close();
    },
  };
}
