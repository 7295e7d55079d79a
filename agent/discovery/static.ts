/** Endpoints that the config lists: known from the start, never changing. */
import type { EndpointSource } from './source.ts';

export function openStaticSource(): EndpointSource {
  return {
    endpoints: ({ source }) => (source.kind === 'static' ? source.endpoints : undefined),
    close: () => {},
  };
}
