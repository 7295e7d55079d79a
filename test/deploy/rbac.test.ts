/** Who may do what: the least that discovery needs, in the namespaces that listeners name; cluster-wide, only to read nodes. */
import { globSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseConfig } from '../../agent/config/load.ts';
import { present } from '../../setup/packages.mjs';
import { all, built, configText, container, type KubernetesObject, nameOf, objectsIn, only } from './objects.ts';
import { K8S, output, ROOT, without } from './tools.ts';

const DEPLOYMENTS = [
  '.',
  'overlays/metallb',
  'overlays/cilium',
  'overlays/ipv6',
  'overlays/pi',
  'overlays/ingress-nodes',
  'examples/multi-tenant',
];
const RULE = { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['get', 'list', 'watch'] };

/** The namespaces whose Services a deployment's listeners follow. */
function followed(objects: readonly KubernetesObject[]): string[] {
  const { listeners } = parseConfig(configText(objects), 'config.yaml');
  return listeners.flatMap(({ endpoints }) => (endpoints.kind === 'kubernetes' ? [endpoints.namespace] : []));
}

describe.skipIf(!present('kubectl'))(`rights${without('kubectl')}`, () => {
  test.each(DEPLOYMENTS)('%s gives them where its listeners look, and nowhere else', (path) => {
    const objects = built(path);
    const roles = all(objects, 'Role');
    const namespaces = [...new Set(followed(objects))].sort();
    expect(roles.map(({ metadata }) => metadata?.namespace).sort()).toEqual(namespaces);
    for (const { rules } of roles) expect(rules).toEqual([RULE]);
    const bindings = all(objects, 'RoleBinding');
    expect(bindings.map(({ metadata }) => metadata?.namespace).sort()).toEqual(namespaces);
    const { metadata } = only(objects, 'ServiceAccount');
    for (const { roleRef, subjects } of bindings) {
      expect(roleRef).toEqual({ apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'udp-fanout' });
      expect(subjects).toEqual([{ kind: 'ServiceAccount', name: metadata?.name, namespace: metadata?.namespace }]);
    }
  });

  test.each(DEPLOYMENTS)('%s gives cluster-wide the right to get nodes, and no other one', (path) => {
    const objects = built(path);
    expect(only(objects, 'ClusterRole').rules).toEqual([{ apiGroups: [''], resources: ['nodes'], verbs: ['get'] }]);
    const { metadata } = only(objects, 'ServiceAccount');
    expect(only(objects, 'ClusterRoleBinding')).toMatchObject({
      roleRef: { kind: 'ClusterRole', name: 'udp-fanout' },
      subjects: [{ kind: 'ServiceAccount', name: metadata?.name, namespace: metadata?.namespace }],
    });
  });

  test.each(DEPLOYMENTS)('%s has a config that the agent takes, and a port for its probes', (path) => {
    const objects = built(path);
    const { metrics, listeners } = parseConfig(configText(objects), 'config.yaml');
    expect(metrics).toMatchObject({ enabled: true, bind: { port: 9090 } });
    expect(listeners.length).toBeGreaterThan(0);
  });

  test('a VIP’s Service and its listener agree on address, port and receivers', () => {
    for (const [path, annotation] of [
      ['overlays/metallb', 'metallb.io/loadBalancerIPs'],
      ['overlays/cilium', 'lbipam.cilium.io/ips'],
    ] as const) {
      const objects = built(path);
      const { metadata, spec } = only(objects, 'Service');
      const [listener] = parseConfig(configText(objects), 'config.yaml').listeners;
      const [port] = spec!.ports!;
      expect(`${metadata!.annotations![annotation]}:${port!.port}`).toBe(`${listener!.bind.ip}:${listener!.bind.port}`);
      expect(listener!.endpoints).toEqual({
        kind: 'kubernetes',
        namespace: metadata!.namespace,
        service: metadata!.name,
        port: port!.targetPort,
        unready: 'last_resort',
      });
    }
  });

  test.each(DEPLOYMENTS)('%s may open the ports that its listeners bind', (path) => {
    const objects = built(path);
    const { listeners } = parseConfig(configText(objects), 'config.yaml');
    const low = listeners.some(({ bind }) => bind.port < 1024);
    const added = container(objects).securityContext!.capabilities!.add!;
    expect(added.includes('NET_BIND_SERVICE')).toBe(low);
  });

  test.each([[['without-sys-admin', 'low-ports']], [['low-ports', 'without-sys-admin']]])(
    'components that change the same list add up: %j',
    (names) => {
      const { capabilities } = container(withComponents(names)).securityContext!;
      expect(capabilities!.add).toEqual(['BPF', 'NET_ADMIN', 'PERFMON', 'NET_RAW', 'NET_BIND_SERVICE']);
    },
  );

  test('without SYS_ADMIN the pod has four capabilities and can gain no privilege', () => {
    const { securityContext } = container(withComponents(['without-sys-admin']));
    expect(securityContext).toMatchObject({ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true });
    expect(securityContext?.capabilities).toEqual({ drop: ['ALL'], add: ['BPF', 'NET_ADMIN', 'PERFMON', 'NET_RAW'] });
  });

  test('with SYS_RESOURCE the pod has one capability more, with or without SYS_ADMIN', () => {
    const given = (...components: string[]) => container(withComponents(components)).securityContext?.capabilities?.add;
    expect(given('with-sys-resource')).toEqual([...given()!, 'SYS_RESOURCE']);
    expect(given('without-sys-admin', 'with-sys-resource')).toEqual([
      'BPF',
      'NET_ADMIN',
      'PERFMON',
      'NET_RAW',
      'SYS_RESOURCE',
    ]);
  });

  test('what removes the program from the nodes has one capability, no login, and comes wherever an agent may have been', () => {
    const objects = built('detach');
    expect(objects.map(({ kind }) => kind)).toEqual(['Namespace', 'DaemonSet']);
    const of = (all: readonly KubernetesObject[]) => only(all, 'DaemonSet').spec!.template;
    const [there, agents] = [of(objects), of(built('.'))];
    const { hostNetwork, tolerations, nodeSelector, priorityClassName } = agents.spec!;
    expect(there.spec).toMatchObject({ hostNetwork, tolerations, nodeSelector, priorityClassName });
    expect(there.spec).toMatchObject({ automountServiceAccountToken: false });
    expect(there.spec).not.toHaveProperty('volumes');
    // No agent is taken for one of these, nor one of these for an agent.
    const name = 'app.kubernetes.io/name';
    expect(there.metadata!.labels![name]).not.toBe(agents.metadata!.labels![name]);
    const [detach, ...more] = there.spec!.initContainers!;
    expect([more, detach!.args]).toEqual([[], ['detach']]);
    const done = container(objects);
    for (const { image, securityContext } of [detach!, done]) {
      expect(image).toBe(container(built('.')).image);
      expect(securityContext).toMatchObject({
        privileged: false,
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
      });
    }
    expect(detach!.securityContext!.capabilities).toEqual({ drop: ['ALL'], add: ['NET_ADMIN'] });
    expect(done.securityContext).toMatchObject({ runAsNonRoot: true, capabilities: { drop: ['ALL'] } });
    expect(done.securityContext!.capabilities).not.toHaveProperty('add');
    // No shell, no script: the image has to have it.
    expect(done.command).toEqual(['sleep', 'infinity']);
  });

  test('updates by takeover: the new pod fits beside the old one, and asks it to let go', () => {
    const objects = withComponents(['surge']);
    expect(only(objects, 'DaemonSet').spec).toMatchObject({
      minReadySeconds: 15,
      updateStrategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
    });
    // Longer than the first answers may be the old pod's, and not what every deployment waits for.
    expect(only(built('base'), 'DaemonSet').spec).not.toHaveProperty('minReadySeconds');
    const { args, ports, startupProbe, livenessProbe, readinessProbe } = container(objects);
    expect([args!.at(-1), ports]).toEqual(['--takeover', undefined]);
    for (const probe of [startupProbe, livenessProbe, readinessProbe]) expect(probe!.httpGet!.port).toBe(9090);
  });

  test('a tenant is a namespace and a component', () => {
    const objects = withComponents(['tenant'], 'namespace: elsewhere');
    const rights = objects.filter(({ kind }) => kind === 'Role' || kind === 'RoleBinding');
    expect(rights.map(nameOf)).toEqual(['elsewhere/udp-fanout', 'elsewhere/udp-fanout']);
  });
});

/** The base, or with a line of its own nothing, and components of k8s/components. */
function withComponents(names: readonly string[], line = ''): KubernetesObject[] {
  const directory = mkdtempSync(join(tmpdir(), 'component-'));
  const from = (path: string) => relative(realpathSync(directory), join(K8S, path));
  const base = line || `resources: [${from('base')}]`;
  const components = names.map((name) => from(`components/${name}`)).join(', ');
  writeFileSync(join(directory, 'kustomization.yaml'), `${base}\ncomponents: [${components}]\n`);
  try {
    return objectsIn(output('kubectl', ['kustomize', directory]));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test('nothing below k8s/ is a right over the whole cluster but the one to read nodes, and no rule has a wildcard', () => {
  const files = globSync('k8s/**/*.yaml', { cwd: ROOT });
  const objects = files.flatMap((file) => objectsIn(readFileSync(join(ROOT, file), 'utf8')));
  const roles = all(objects, 'ClusterRole');
  const wide = [{ apiGroups: [''], resources: ['nodes'], verbs: ['get'] }];
  for (const { rules } of roles) expect(rules).toEqual(wide);
  expect(JSON.stringify(all(objects, 'Role'))).not.toContain('*');
});

test('the agent asks for no verb that the Role lacks, and for no other resource', () => {
  const api = readFileSync(join(ROOT, 'agent/discovery/api.ts'), 'utf8');
  const paths = [...api.matchAll(/`(\/apis?\/[^`]*)`/g)].map(([, path]) => path);
  expect(paths).toEqual([expect.stringContaining('/api/v1/nodes/'), expect.stringContaining('/endpointslices?')]);
  const http = readFileSync(join(ROOT, 'agent/discovery/http.ts'), 'utf8');
  expect(http).not.toMatch(/method: *'(?!GET)/);
});
