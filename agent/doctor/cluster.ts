/** The Kubernetes API as the listeners need it: reachable, readable in each namespace, and with receivers in it. */
import { type Finding, fail, ok, warn } from './finding.ts';

/** What came of asking for one Service's EndpointSlices. */
export interface ServiceFacts {
  readonly namespace: string;
  readonly service: string;
  /** By verb, why it was refused; a verb that is absent was answered. */
  readonly refused: Readonly<Partial<Record<'list' | 'watch', Refusal>>>;
  readonly slices: number;
  /** Endpoints that may receive, on the port that the listener asks for. */
  readonly endpoints: number;
  /** Why slices give no endpoints, in the agent's words. */
  readonly remarks: readonly string[];
}

export interface Refusal {
  readonly cause: string;
  readonly message: string;
  /** A Role and RoleBinding to paste, where that is what is missing. */
  readonly role?: string;
}

/** Causes that say something of the way to the API server, not of one namespace. */
const UNREACHED: readonly string[] = ['credentials', 'unreachable', 'timeout', 'reset', 'unauthorized'];

export function clusterFindings(services: readonly ServiceFacts[]): Finding[] {
  if (services.length === 0) return [];
  const unreached = services.map(({ refused }) => refused.list).find((one) => one && UNREACHED.includes(one.cause));
  if (unreached) return [unreachable(unreached)];
  return [ok('API server', 'answers'), ...services.flatMap((one) => [...rights(one), ...receivers(one)])];
}

function unreachable({ cause, message }: Refusal): Finding {
  const mend =
    cause === 'credentials' || cause === 'unauthorized'
      ? "in a pod, mount the service account's token; elsewhere set KUBECONFIG"
      : 'see whether this node reaches the API server; a running agent goes on with its last endpoints';
  return fail('API server', `${cause}: ${message}`, mend);
}

function rights({ namespace, refused }: ServiceFacts): Finding[] {
  return (['list', 'watch'] as const).flatMap((verb) => {
    const what = `RBAC ${namespace}`;
    const refusal = refused[verb];
    if (!refusal) return refused.list ? [] : [ok(what, `may ${verb} endpointslices`)];
    const mend = refusal.role ? `kubectl apply -f - <<< '${refusal.role}'` : "see the API server's log";
    return [fail(what, `may not ${verb} endpointslices (${refusal.cause}): ${refusal.message}`, mend)];
  });
}

function receivers({ namespace, service, refused, slices, endpoints, remarks }: ServiceFacts): Finding[] {
  const what = `Service ${namespace}/${service}`;
  if (refused.list) return [];
  if (slices === 0) {
    const means = 'EndpointSlice not found: wrong namespace in the config, or the Service does not exist';
    return [
      fail(what, means, `kubectl -n ${namespace} get service,endpointslices -l kubernetes.io/service-name=${service}`),
    ];
  }
  const some = remarks.map((remark) => warn(what, remark, 'correct kubernetes.port, or the ports of the Service'));
  if (endpoints > 0) return [...some, ok(what, `${endpoints} endpoints may receive, in ${slices} EndpointSlices`)];
  if (some.length > 0) return some;
  const means = `${slices} EndpointSlices, but no endpoint is ready: every datagram would be dropped (no_downstream)`;
  return [warn(what, means, `kubectl -n ${namespace} get pods: does the selector match, are they Ready?`)];
}
