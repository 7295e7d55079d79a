/** The endpoints of all listeners, each from where its config says. */
import type { Log } from '../log.ts';
import type { Listener } from '../model.ts';
import type { LiveSource } from './endpoint-source.ts';
import { openStaticSource } from './static.ts';

/** The endpoints of listeners of both kinds. What speaks to Kubernetes is loaded only where a listener wants it. */
export async function openSource(dependencies: {
  readonly listeners: readonly Listener[];
  readonly log: Log;
}): Promise<LiveSource> {
  const fixed = openStaticSource();
  const wanted = dependencies.listeners.some(({ endpoints }) => endpoints.kind === 'kubernetes');
  const live = wanted ? (await import('./kubernetes.ts')).openKubernetesSource(dependencies) : undefined;
  return {
    endpoints: (listener) => (listener.endpoints.kind === 'static' ? fixed : live)?.endpoints(listener),
    start: (onChange) => live?.start(onChange),
    status: () => live?.status() ?? [],
    close: () => {
      live?.close();
      fixed.close();
    },
  };
}
