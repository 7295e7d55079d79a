/** Answers of the fake API server that are over in one go: objects, refusals, writes, and no answer at all. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type Fault, refusalOf } from './faults.ts';
import type { Route } from './route.ts';
import { alreadyExists, notFound, type Refusal, status } from './status.ts';
import type { ApiObject, ApiStore } from './store.ts';

export function send(response: ServerResponse, code: number, body: object, headers: Record<string, string> = {}): void {
  response.writeHead(code, { 'Content-Type': 'application/json', ...headers }).end(`${JSON.stringify(body)}\n`);
}

export function refuse(response: ServerResponse, refusal: Refusal, headers?: Record<string, string>): void {
  send(response, refusal.code, status(refusal), headers);
}

/** For a group that nobody has. */
export function pageNotFound(response: ServerResponse): void {
  response.writeHead(404, { 'Content-Type': 'text/plain; charset=utf-8' }).end('404 page not found\n');
}

/** What /apis/discovery.k8s.io says. */
export function apiGroup(served: readonly string[]): object {
  const name = 'discovery.k8s.io';
  const versions = served.map((version) => ({ groupVersion: `${name}/${version}`, version }));
  return { kind: 'APIGroup', apiVersion: 'v1', name, versions, preferredVersion: versions[0] };
}

export function misbehave(fault: Fault, request: IncomingMessage, response: ServerResponse): void {
  switch (fault.answer) {
    case 'reset':
      request.socket.destroy();
      return;
    case 'hang':
      return;
    case 'garbage':
      response.writeHead(200, { 'Content-Type': 'text/html' }).end('<html>502 Bad Gateway</html>\n');
      return;
    default: {
      const wait = fault.retryAfter === undefined ? {} : { 'Retry-After': fault.retryAfter };
      refuse(response, refusalOf(fault), wait);
    }
  }
}

/** Creates, reads, updates or deletes one object. */
export async function write(store: ApiStore, route: Route, request: IncomingMessage, response: ServerResponse) {
  const body = Buffer.concat(await request.toArray()).toString('utf8');
  const { verb, resource, namespace, name } = route;
  if (resource === 'namespaces') {
    const all = verb === 'delete' ? store.list(namespace, () => true) : [];
    for (const slice of all) store.delete(namespace, slice.metadata.name);
    return send(response, verb === 'create' ? 201 : 200, { kind: 'Namespace', apiVersion: 'v1', metadata: { name } });
  }
  const old = store.get(namespace, name);
  if (verb !== 'create' && !old) return refuse(response, notFound(name));
  if (verb === 'get') return send(response, 200, old!);
  if (verb === 'delete') {
    store.delete(namespace, name);
    return send(response, 200, { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success' });
  }
  const object = JSON.parse(body) as ApiObject;
  const exists = store.get(namespace, object.metadata.name);
  if (verb === 'create' && exists) return refuse(response, alreadyExists(object.metadata.name));
  send(response, verb === 'create' ? 201 : 200, store.put(namespace, object));
}
