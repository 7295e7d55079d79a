/**
 * As much of an API server as `kubectl apply` and `kubectl delete` ask for: discovery, and objects that are created,
 * read, changed and deleted. Like the real one it refuses what belongs into a namespace that is not there.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What it serves: group and version, then the plural, kind and scope of each resource. */
const RESOURCES: Readonly<Record<string, readonly (readonly [plural: string, kind: string, namespaced: boolean])[]>> = {
  v1: [
    ['namespaces', 'Namespace', false],
    ['serviceaccounts', 'ServiceAccount', true],
    ['configmaps', 'ConfigMap', true],
    ['services', 'Service', true],
  ],
  'apps/v1': [
    ['daemonsets', 'DaemonSet', true],
    ['deployments', 'Deployment', true],
  ],
  'rbac.authorization.k8s.io/v1': [
    ['roles', 'Role', true],
    ['rolebindings', 'RoleBinding', true],
    ['clusterroles', 'ClusterRole', false],
    ['clusterrolebindings', 'ClusterRoleBinding', false],
  ],
};

export class Cluster {
  /** By path below the API's root. */
  readonly objects = new Map<string, unknown>();
  /** Namespaces that were deleted and are still there, as they are until their controller has emptied them. */
  readonly #terminating = new Set<string>();
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Starts one with these namespaces. */
  static async start(...namespaces: readonly string[]): Promise<Cluster> {
    const server = createServer();
    const cluster = new Cluster(server);
    for (const name of namespaces) cluster.objects.set(`/api/v1/namespaces/${name}`, {});
    server.on('request', (request, response) => void cluster.#answer(request, response));
    await once(server.listen(0, '127.0.0.1'), 'listening');
    return cluster;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** `roles/udp-fanout in logging` for each object, sorted. */
  names(): string[] {
    const paths = [...this.objects.keys()].map((path) => path.split('/').slice(path.startsWith('/api/') ? 3 : 4));
    return paths.map((path) => (path.length === 4 ? `${path[2]}/${path[3]} in ${path[1]}` : path.join('/'))).sort();
  }

  /** Does the work of the namespace controller: what was in a deleted namespace goes, then the namespace. */
  settle(): void {
    for (const path of this.#terminating) {
      const content = `${path.replace('/api/v1', '')}/`;
      for (const key of this.objects.keys()) if (key === path || key.includes(content)) this.objects.delete(key);
    }
    this.#terminating.clear();
  }

  close(): void {
    this.#server.close();
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname: path } = new URL(request.url!, this.url);
    const body = Buffer.concat(await request.toArray()).toString('utf8');
    const { code, answer } = discovered(path) ?? this.#changed(request.method!, path, body);
    response.writeHead(code, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
  }

  #changed(method: string, path: string, body: string): Answer {
    const found = this.objects.get(path);
    if (method === 'POST') return this.#created(path, JSON.parse(body));
    if (found === undefined) return failure(404, `${path} not found`);
    if (method === 'DELETE') {
      if (/^\/api\/v1\/namespaces\/[^/]+$/.test(path)) this.#terminating.add(path);
      else this.objects.delete(path);
      return { code: 200, answer: { kind: 'Status', apiVersion: 'v1', status: 'Success' } };
    }
    return { code: 200, answer: found };
  }

  #created(path: string, object: { metadata: { name: string } }): Answer {
    const namespace = /\/namespaces\/([^/]+)\//.exec(path)?.[1];
    if (namespace !== undefined && !this.objects.has(`/api/v1/namespaces/${namespace}`)) {
      return failure(404, `namespaces "${namespace}" not found`);
    }
    this.objects.set(`${path}/${object.metadata.name}`, object);
    return { code: 201, answer: object };
  }
}

interface Answer {
  readonly code: number;
  readonly answer: unknown;
}

function failure(code: number, message: string): Answer {
  return { code, answer: { kind: 'Status', apiVersion: 'v1', status: 'Failure', reason: 'NotFound', code, message } };
}

function discovered(path: string): Answer | undefined {
  const versions = Object.keys(RESOURCES);
  if (path === '/api') return { code: 200, answer: { kind: 'APIVersions', versions: ['v1'] } };
  if (path === '/apis') {
    const groups = versions
      .filter((one) => one.includes('/'))
      .map((groupVersion) => {
        const [name, version] = groupVersion.split('/');
        const offered = { groupVersion, version };
        return { name, versions: [offered], preferredVersion: offered };
      });
    return { code: 200, answer: { kind: 'APIGroupList', apiVersion: 'v1', groups } };
  }
  const groupVersion = versions.find((one) => path === `/apis/${one}` || path === `/api/${one}`);
  if (groupVersion === undefined) return undefined;
  const verbs = ['create', 'delete', 'get', 'list', 'patch', 'update', 'watch'];
  const resources = RESOURCES[groupVersion]!.map(([name, kind, namespaced]) => ({ name, kind, namespaced, verbs }));
  return { code: 200, answer: { kind: 'APIResourceList', apiVersion: 'v1', groupVersion, resources } };
}
