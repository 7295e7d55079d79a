/** What the API server's "no" asks for: the Role and RoleBinding that are missing, to be pasted into `kubectl apply`. */

const GROUP = 'rbac.authorization.k8s.io';
/** Those of k8s/: `kubectl apply` takes away what a later text of the same object lacks. */
const LABELS = '{app.kubernetes.io/name: udp-fanout, app.kubernetes.io/part-of: udp-fanout}';

/** One line of YAML: a List of a Role and a RoleBinding for whom the API server names in its refusal. */
export function missingRole(namespace: string, refusal: string): string {
  const metadata = `metadata: {name: udp-fanout, namespace: ${namespace}, labels: ${LABELS}}`;
  const rules = 'rules: [{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}]';
  const roleRef = `roleRef: {apiGroup: ${GROUP}, kind: Role, name: udp-fanout}`;
  const role = `{apiVersion: ${GROUP}/v1, kind: Role, ${metadata}, ${rules}}`;
  const binding = `{apiVersion: ${GROUP}/v1, kind: RoleBinding, ${metadata}, ${roleRef}, subjects: [${subjectOf(refusal)}]}`;
  // A text that begins with a brace is JSON to kubectl, whatever follows; an anchor says YAML and means nothing else.
  return `&rights {apiVersion: v1, kind: List, items: [${role}, ${binding}]}`;
}

/** The API server says: User "system:serviceaccount:NAMESPACE:NAME" cannot list resource … */
function subjectOf(refusal: string): string {
  const user = /User "([^"]*)"/.exec(refusal)?.[1] ?? 'system:serviceaccount:udp-fanout:udp-fanout';
  const [, namespace, name] = /^system:serviceaccount:([^:]+):([^:]+)$/.exec(user) ?? [];
  if (namespace === undefined) return `{apiGroup: ${GROUP}, kind: User, name: '${user.replaceAll("'", "''")}'}`;
  return `{kind: ServiceAccount, name: ${name}, namespace: ${namespace}}`;
}
