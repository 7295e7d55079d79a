/** The Status objects that an API server answers with (meta/v1), in its own words. */

export interface Refusal {
  readonly code: number;
  readonly reason: string;
  readonly message: string;
}

export function status({ code, reason, message }: Refusal): object {
  return { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', message, reason, code };
}

export const UNAUTHORIZED: Refusal = { code: 401, reason: 'Unauthorized', message: 'Unauthorized' };

export function forbidden(user: string, verb: string, namespace: string): Refusal {
  // Of what is in no namespace we only know nodes.
  if (namespace === '')
    return {
      code: 403,
      reason: 'Forbidden',
      message: `nodes is forbidden: User "${user}" cannot ${verb} resource "nodes" in API group "" at the cluster scope`,
    };
  const message =
    `endpointslices.discovery.k8s.io is forbidden: User "${user}" cannot ${verb} resource "endpointslices" in API ` +
    `group "discovery.k8s.io" in the namespace "${namespace}"`;
  return { code: 403, reason: 'Forbidden', message };
}

export function expired(asked: number, oldest: number): Refusal {
  return { code: 410, reason: 'Expired', message: `too old resource version: ${asked} (${oldest})` };
}

export function notFound(name: string): Refusal {
  return { code: 404, reason: 'NotFound', message: `endpointslices.discovery.k8s.io "${name}" not found` };
}

/** For a version that a known group does not have (Kubernetes 1.20 to 1.36). */
export const NO_SUCH_PATH: Refusal = {
  code: 404,
  reason: 'NotFound',
  message: 'the server could not find the requested resource',
};

export function alreadyExists(name: string): Refusal {
  return { code: 409, reason: 'AlreadyExists', message: `endpointslices.discovery.k8s.io "${name}" already exists` };
}

/** What any code says of itself, for a script that makes the server fail. */
export function failing(code: number): Refusal {
  const reasons: Readonly<Record<number, string>> = {
    410: 'Expired',
    429: 'TooManyRequests',
    500: 'InternalError',
    503: 'ServiceUnavailable',
    504: 'Timeout',
  };
  return { code, reason: reasons[code] ?? 'Unknown', message: `the script says ${code}` };
}
