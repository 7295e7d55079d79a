/** Endpoints that the config lists: known from the start, never changing. */
import type { EndpointSource } from './endpoint-source.ts';

export function openStaticSource(): EndpointSource {
  return {
    endpoints: ({ endpoints }) => (endpoints.kind === 'static' ? endpoints.list : undefined),
    close: () => {},
  };
}
