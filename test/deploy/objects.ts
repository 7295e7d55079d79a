/** Kubernetes objects out of YAML, as the manifests write them or as kustomize builds them. */
import { globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type {
  V1ClusterRole,
  V1ClusterRoleBinding,
  V1ConfigMap,
  V1Container,
  V1DaemonSet,
  V1Deployment,
  V1Namespace,
  V1Role,
  V1RoleBinding,
  V1Service,
  V1ServiceAccount,
} from '@kubernetes/client-node';
import { parse, parseAllDocuments } from 'yaml';
import { K8S, output } from './tools.ts';

export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly labels?: Record<string, string> };
}

/** The kinds that are here, by the names of their types in @kubernetes/client-node. */
interface Kinds {
  readonly ConfigMap: V1ConfigMap;
  readonly DaemonSet: V1DaemonSet;
  readonly Deployment: V1Deployment;
  readonly Namespace: V1Namespace;
  readonly Role: V1Role;
  readonly RoleBinding: V1RoleBinding;
  readonly ClusterRole: V1ClusterRole;
  readonly ClusterRoleBinding: V1ClusterRoleBinding;
  readonly Service: V1Service;
  readonly ServiceAccount: V1ServiceAccount;
}

/** Reads every document of a YAML text; throws where it is no YAML. */
export function objectsIn(text: string): KubernetesObject[] {
  return parseAllDocuments(text).map((document) => {
    if (document.errors.length > 0) throw document.errors[0]!;
    return document.toJS() as KubernetesObject;
  });
}

/** The objects of a manifest below k8s/. */
export function manifest(path: string): KubernetesObject[] {
  return objectsIn(readFileSync(join(K8S, path), 'utf8'));
}

/** By directory: nobody changes them meanwhile, and kubectl takes most of a second for each. */
const texts = new Map<string, string>();

/** What `kubectl apply -k` would send for a directory below k8s/. */
export function built(path: string): KubernetesObject[] {
  const text = texts.get(path) ?? output('kubectl', ['kustomize', join(K8S, path)]);
  texts.set(path, text);
  return objectsIn(text);
}

/** Directories below k8s/ that `kubectl apply -k` takes, sorted; a component is none by itself. */
export function kustomizations(): string[] {
  const files = globSync('**/kustomization.yaml', { cwd: K8S });
  const whole = files.filter((file) => parse(readFileSync(join(K8S, file), 'utf8')).kind === 'Kustomization');
  return whole.map(dirname).sort();
}

/** The objects of a kind, in their order. */
export function all<Kind extends keyof Kinds>(objects: readonly KubernetesObject[], kind: Kind): Kinds[Kind][] {
  return objects.filter((one) => one.kind === kind) as object[] as Kinds[Kind][];
}

/** The one object of a kind; throws where there is none or more of them. */
export function only<Kind extends keyof Kinds>(objects: readonly KubernetesObject[], kind: Kind): Kinds[Kind] {
  const found = all(objects, kind);
  if (found.length !== 1) throw new Error(`${found.length} objects of kind ${kind}, want one`);
  return found[0]!;
}

/** The agent's container. */
export function container(objects: readonly KubernetesObject[]): V1Container {
  const [first, ...more] = only(objects, 'DaemonSet').spec?.template.spec?.containers ?? [];
  if (!first || more.length > 0) throw new Error('the DaemonSet has not one container');
  return first;
}

/** The agent's config as the ConfigMap has it. */
export function configText(objects: readonly KubernetesObject[]): string {
  const map = all(objects, 'ConfigMap').find(({ metadata }) => metadata?.name === 'udp-fanout');
  const text = map?.data?.['config.yaml'];
  if (text === undefined) throw new Error('no ConfigMap udp-fanout with a config.yaml');
  return text;
}

/** `logging/udp-fanout`, or the name alone. */
export function nameOf({ metadata: { namespace, name } }: KubernetesObject): string {
  return namespace === undefined ? name : `${namespace}/${name}`;
}
