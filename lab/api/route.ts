/** A request as the API reads it: kubernetes.io/docs/reference/using-api/api-concepts. */
import type { IncomingMessage } from 'node:http';
import type { ApiObject, Selector } from './store.ts';

export interface Route {
  readonly verb: 'list' | 'watch' | 'get' | 'create' | 'update' | 'delete';
  readonly resource: 'endpointslices' | 'namespaces' | 'nodes' | 'group';
  readonly version: string;
  readonly namespace: string;
  readonly name: string;
  readonly query: URLSearchParams;
}

const SLICES = /^\/apis\/discovery\.k8s\.io\/(\w+)\/namespaces\/([^/]+)\/endpointslices(?:\/([^/]+))?$/;
const GROUP = '/apis/discovery.k8s.io';
const NODES = /^\/api\/(v1)\/nodes(?:\/([^/]+))?$/;
/** Where the store keeps what is in no namespace, and what the rights to it go by. */
export const CLUSTER = '';
const NAMESPACES = /^\/api\/(v1)\/namespaces(?:\/([^/]+))?$/;

/** What is asked; undefined where the API has no such path. */
export function routeOf({ method = 'GET', url = '/' }: IncomingMessage): Route | undefined {
  const { pathname, searchParams: query } = new URL(url, 'http://api');
  const slices = SLICES.exec(pathname);
  const namespaces = NAMESPACES.exec(pathname);
  if (slices) {
    const [, version = '', namespace = '', name = ''] = slices;
    return { verb: verbOf(method, name, query), resource: 'endpointslices', version, namespace, name, query };
  }
  if (pathname === GROUP) {
    return { verb: 'get', resource: 'group', version: '', namespace: '', name: '', query };
  }
  const nodes = NODES.exec(pathname);
  if (nodes) {
    const [, version = '', name = ''] = nodes;
    return { verb: verbOf(method, name, query), resource: 'nodes', version, namespace: CLUSTER, name, query };
  }
  if (!namespaces) return undefined;
  const [, version = '', name = ''] = namespaces;
  return { verb: verbOf(method, name, query), resource: 'namespaces', version, namespace: name, name, query };
}

function verbOf(method: string, name: string, query: URLSearchParams): Route['verb'] {
  if (method === 'POST') return 'create';
  if (method === 'PUT') return 'update';
  if (method === 'DELETE') return 'delete';
  if (name !== '') return 'get';
  return ['1', 'true'].includes(query.get('watch') ?? '') ? 'watch' : 'list';
}

/** A label selector of the form `a=b,c=d`; an absent one selects everything. */
export function selectorOf(text: string | null): Selector {
  const wanted = (text ?? '').split(',').filter((part) => part !== '');
  const pairs = wanted.map((part) => part.split('=', 2) as [string, string]);
  return ({ metadata }: ApiObject) => pairs.every(([key, value]) => metadata.labels?.[key] === value);
}
