/** Everything below k8s/, applied to the real server, its rights as the server sees them, and taken away again. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { parseConfig } from '../../agent/config/load.ts';
import { missingRole } from '../../agent/discovery/rbac-hint.ts';
import type { Json } from '../conversation/format.ts';
import { configText, type KubernetesObject, kustomizations, nameOf, objectsIn } from '../deploy/objects.ts';
import { K8S } from '../deploy/tools.ts';
import type { ControlPlane } from './control-plane.ts';
import type { Report } from './report.ts';

const OURS = 'udp-fanout';
const LABEL = 'app.kubernetes.io/name=udp-fanout';
const KINDS = 'namespaces,serviceaccounts,configmaps,services,deployments,daemonsets,roles,rolebindings';
/** In no namespace, so everywhere. */
const OF_NODES = { apiGroups: [''], resources: ['nodes'], verbs: ['get'] };
const RULE = { verbs: ['get', 'list', 'watch'], apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'] };
/** What a cluster without the Prometheus Operator has. */
const KNOWN = /^(v1|apps\/v1|rbac\.authorization\.k8s\.io\/v1)$/;

/** One deployment: what it is called, and the directory that kubectl is given. */
type Deployment = readonly [name: string, directory: string];

/** Checks every kustomization, and each component on top of the base. */
export async function checkDeployments(plane: ControlPlane, report: Report): Promise<void> {
  const scratch = realpathSync(mkdtempSync(join(tmpdir(), 'kustomizations-')));
  try {
    const own = kustomizations().map((path): Deployment => [`k8s/${path}`.replace(/\/\.$/, ''), join(K8S, path)]);
    for (const [name, directory] of [...own, ...withComponents(scratch)]) {
      const objects = objectsIn(plane.kubectl('kustomize', directory));
      const foreign = objects.find(({ apiVersion }) => !KNOWN.test(apiVersion));
      if (foreign)
        report.skip(name, `its ${foreign.kind} is the Prometheus Operator's, which no package of Debian brings`);
      else await checkDeployment(plane, report, [name, directory], objects);
    }
    await report.check('check-cluster.sh tells what is there, and that there is no node', () => checkedCluster(plane));
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

async function checkDeployment(
  plane: ControlPlane,
  report: Report,
  [name, directory]: Deployment,
  objects: readonly KubernetesObject[],
): Promise<void> {
  const elsewhere = namespacesOf(objects).filter((one) => one !== OURS);
  await makeReceivers(plane, elsewhere);
  await report.check(`${name}: apply -k, and a second one changes nothing`, () => {
    plane.kubectl('apply', '-k', directory);
    const changed = plane
      .kubectl('apply', '-k', directory)
      .trim()
      .split('\n')
      .filter((line) => !/ unchanged$/.test(line));
    assert.deepEqual(changed, []);
  });
  const hasAccount = objects.some(({ kind }) => kind === 'ServiceAccount');
  if (hasAccount) {
    const followed = followedBy(objects);
    await report.check(
      `${name}: the agent may read EndpointSlices in ${followed.join(', ')}, a node by its name, and nothing else`,
      () => checkRights(plane, followed),
    );
    await report.check(`${name}: the Role that the log offers changes nothing of it`, () => pasted(plane, followed));
  }
  await report.check(`${name}: delete -k leaves the receivers and nothing of ours`, async () => {
    plane.kubectl('delete', '-k', directory, '--ignore-not-found', '--wait=false');
    await plane.finalize(OURS);
    assert.equal(plane.kubectl('get', KINDS, '-A', '-l', LABEL, '-o', 'name'), '');
    for (const one of elsewhere)
      assert.deepEqual(await receiversIn(plane, one), { phase: 'Active', labels: [], kept: 200 });
  });
}

/** Each component of k8s/components on top of the base, and in both orders those that change the pod. */
function withComponents(scratch: string): Deployment[] {
  const all = readdirSync(join(K8S, 'components')).sort();
  const ofPod = all.filter((name) => name !== 'tenant');
  const sets = [...all.map((name) => [name]), ofPod, ofPod.toReversed()];
  return sets.map((names): Deployment => {
    const directory = join(scratch, names.join('+'));
    mkdirSync(directory);
    const from = (path: string) => relative(directory, join(K8S, path));
    const parts = `[${names.map((one) => from(`components/${one}`)).join(', ')}]`;
    // A component takes the namespace of the kustomization around it.
    if (names.includes('tenant')) {
      mkdirSync(join(directory, 'tenant'));
      const tenant = `namespace: logging-too\ncomponents: [${join('..', from('components/tenant'))}]\n`;
      writeFileSync(join(directory, 'tenant/kustomization.yaml'), tenant);
      writeFileSync(join(directory, 'kustomization.yaml'), `resources: [${from('base')}, tenant]\n`);
    } else {
      writeFileSync(join(directory, 'kustomization.yaml'), `resources: [${from('base')}]\ncomponents: ${parts}\n`);
    }
    return [`k8s/base with components/${names.join(' and ')}`, directory];
  });
}

function namespacesOf(objects: readonly KubernetesObject[]): string[] {
  return [...new Set(objects.flatMap(({ metadata }) => metadata.namespace ?? []))].sort();
}

/** Where the listeners look; a tenant that is added has no listener yet. */
function followedBy(objects: readonly KubernetesObject[]): string[] {
  const { listeners } = parseConfig(configText(objects), 'config.yaml');
  const named = listeners.flatMap(({ endpoints }) => (endpoints.kind === 'kubernetes' ? [endpoints.namespace] : []));
  const added = objects.filter(({ kind }) => kind === 'Role').map((one) => nameOf(one).split('/')[0]!);
  return [...new Set([...named, ...added.filter((one) => one === 'logging-too')])].sort();
}

/** Receivers' namespaces, with something in them that is not ours. */
async function makeReceivers(plane: ControlPlane, names: readonly string[]): Promise<void> {
  for (const name of names) {
    const { status } = await plane.client.ask('GET', `/api/v1/namespaces/${name}`);
    if (status === 404) plane.kubectl('create', 'namespace', name);
    const kept = await plane.client.ask('GET', `/api/v1/namespaces/${name}/configmaps/receivers`);
    if (kept.status === 404) plane.kubectl('-n', name, 'create', 'configmap', 'receivers');
  }
}

async function receiversIn(plane: ControlPlane, name: string) {
  const { status, metadata } = (await plane.ask('GET', `/api/v1/namespaces/${name}`)) as {
    status: { phase: string };
    metadata: { labels?: Record<string, string> };
  };
  const { status: kept } = await plane.client.ask('GET', `/api/v1/namespaces/${name}/configmaps/receivers`);
  const labels = Object.keys(metadata.labels ?? {}).filter((key) => key.startsWith('app.kubernetes.io/'));
  return { phase: status.phase, labels, kept };
}

/** All that the server lets the agent do, in every namespace of the cluster, and what it says to the questions themselves. */
async function checkRights(plane: ControlPlane, followed: readonly string[]): Promise<void> {
  const token = await plane.tokenOf(OURS, OURS);
  const ask = (method: string, path: string, body?: Json) => plane.client.ask(method, path, body, token);
  const { items } = (await plane.ask('GET', '/api/v1/namespaces')) as { items: { metadata: { name: string } }[] };
  for (const { metadata } of items) {
    const spec = { namespace: metadata.name };
    const review = { apiVersion: 'authorization.k8s.io/v1', kind: 'SelfSubjectRulesReview', spec };
    const { body } = await ask('POST', '/apis/authorization.k8s.io/v1/selfsubjectrulesreviews', review);
    const { resourceRules } = (body as { status: { resourceRules: { apiGroups: string[] }[] } }).status;
    // Everybody may ask what he may.
    const rules = resourceRules.filter(({ apiGroups }) => apiGroups.join() !== 'authorization.k8s.io');
    const wanted = followed.includes(metadata.name) ? [OF_NODES, RULE] : [OF_NODES];
    assert.deepEqual(rules, wanted, `in namespace ${metadata.name}`);
  }
  const slices = (namespace: string) => `/apis/discovery.k8s.io/v1beta1/namespaces/${namespace}/endpointslices`;
  const answers = new Map<string, number>();
  for (const one of followed) answers.set(`GET ${slices(one)}`, 200);
  // Allowed, but there is none of that name.
  answers.set('GET /api/v1/nodes/nobody', 404).set('GET /api/v1/nodes', 403);
  answers.set('GET /apis/discovery.k8s.io/v1beta1/endpointslices', 403).set(`GET ${slices('default')}`, 403);
  answers.set(`DELETE ${slices(followed[0]!)}`, 403).set(`GET /api/v1/namespaces/${followed[0]}/secrets`, 403);
  for (const [question, wanted] of answers) {
    const [method = '', path = ''] = question.split(' ');
    assert.equal((await ask(method, path)).status, wanted, question);
  }
}

/** Puts in what the agent's log would offer, where all of it is there already. */
function pasted(plane: ControlPlane, followed: readonly string[]): void {
  const refusal = `User "system:serviceaccount:${OURS}:${OURS}" cannot list resource "endpointslices"`;
  const directory = mkdtempSync(join(tmpdir(), 'pasted-'));
  try {
    for (const namespace of followed) {
      const shown = () => {
        const path = ['-n', namespace, 'get', `role/${OURS}`, `rolebinding/${OURS}`];
        return plane.kubectl(...path, '-o', 'jsonpath={range .items[*]}{.metadata.labels}{.rules}{.subjects}{end}');
      };
      const before = shown();
      assert.match(before, /"app\.kubernetes\.io\/name":"udp-fanout"/);
      writeFileSync(join(directory, 'role.yaml'), missingRole(namespace, refusal));
      plane.kubectl('apply', '-f', join(directory, 'role.yaml'));
      assert.equal(withoutPart(shown()), withoutPart(before));
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** A component that is used alone has one label less. */
function withoutPart(text: string): string {
  return text.replaceAll(',"app.kubernetes.io/part-of":"udp-fanout"', '');
}

async function checkedCluster(plane: ControlPlane): Promise<void> {
  plane.kubectl('apply', '-k', K8S);
  try {
    const script = join(K8S, 'check-cluster.sh');
    const said = plane.script('-c', `"${script}" || true`);
    for (const line of [
      /^ok {4}API server: Kubernetes v1\.\d+/m,
      /^ok {4}EndpointSlice API: discovery\.k8s\.io\/v1/m,
      /^warn {2}nodes: the cluster has none/m,
      /^ok {4}RBAC logging: the agent may get, list and watch endpointslices/m,
      /^fail {2}Service logging\/vector-aggregators: is not there/m,
      /^warn {2}DaemonSet: is scheduled on no node/m,
    ]) {
      assert.match(said, line);
    }
  } finally {
    plane.kubectl('delete', '-k', K8S, '--ignore-not-found', '--wait=false');
    await plane.finalize(OURS);
  }
}
