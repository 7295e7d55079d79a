/** The deployment guide, row by row of its checklist, against what `kubectl apply -k k8s/` sends. */
import { spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { missingRole } from '../../agent/discovery/rbac-hint.ts';
import { present } from '../../setup/packages.mjs';
import { all, built, configText, container, manifest, nameOf, only } from './objects.ts';
import { output, ROOT, without } from './tools.ts';

const objects = present('kubectl') ? built('.') : [...manifest('rbac.yaml'), ...manifest('daemonset.yaml')];
const daemonSet = () => only(objects, 'DaemonSet');
const pod = () => daemonSet().spec!.template.spec!;
const agent = () => container(objects);
const sample = () => parse(configText(objects));
const dockerfile = readFileSync(join(ROOT, 'Dockerfile'), 'utf8');

/** Row of the checklist, what it promises, and how it shows. */
const ROWS: readonly (readonly [row: number, promise: string, shows: () => void])[] = [
  [4, 'on all nodes', () => expect(pod().tolerations).toEqual([{ operator: 'Exists' }])],
  [4, 'on all nodes that can run it', () => expect(pod().nodeSelector).toEqual({ 'kubernetes.io/os': 'linux' })],
  [6, 'host network', () => expect(pod()).toMatchObject({ hostNetwork: true, dnsPolicy: 'ClusterFirstWithHostNet' })],
  [
    7,
    'capabilities',
    () =>
      expect(agent().securityContext?.capabilities?.add).toEqual(
        expect.arrayContaining(['BPF', 'NET_ADMIN', 'SYS_ADMIN', 'PERFMON', 'NET_RAW']),
      ),
  ],
  [
    8,
    'reads EndpointSlices',
    () =>
      expect(only(objects, 'Role')).toMatchObject({
        metadata: { namespace: 'logging' },
        rules: [{ apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['get', 'list', 'watch'] }],
      }),
  ],
  [9, 'the Dockerfile lies where `docker build .` looks', () => expect(dockerfile).toMatch(/^FROM /m)],
  [
    10,
    'DaemonSet, container and namespace have one name',
    () =>
      expect([nameOf(objects.find(({ kind }) => kind === 'DaemonSet')!), agent().name]).toEqual([
        'udp-fanout/udp-fanout',
        'udp-fanout',
      ]),
  ],
  [
    11,
    'an imported image is used',
    () => expect(agent()).toMatchObject({ image: 'udp-fanout:latest', imagePullPolicy: 'IfNotPresent' }),
  ],
  [
    15,
    'rbac.yaml',
    () =>
      expect(manifest('rbac.yaml').map((one) => `${one.kind} ${nameOf(one)}`)).toEqual([
        'Namespace udp-fanout',
        'ServiceAccount udp-fanout/udp-fanout',
        'Role logging/udp-fanout',
        'RoleBinding logging/udp-fanout',
        // Beside what the guide lists: what senders that are nodes take.
        'ClusterRole udp-fanout',
        'ClusterRoleBinding udp-fanout',
      ]),
  ],
  [
    15,
    'the Role is the agent’s',
    () =>
      expect(only(objects, 'RoleBinding')).toMatchObject({
        roleRef: { kind: 'Role', name: 'udp-fanout' },
        subjects: [
          { kind: 'ServiceAccount', name: pod().serviceAccountName, namespace: daemonSet().metadata!.namespace },
        ],
      }),
  ],
  [
    16,
    'daemonset.yaml',
    () => expect(manifest('daemonset.yaml').map(({ kind }) => kind)).toEqual(['ConfigMap', 'DaemonSet']),
  ],
  [
    16,
    'the sample listener',
    () =>
      expect(sample().listeners).toEqual([
        {
          name: 'syslog',
          bind: '0.0.0.0:5514',
          interface: 'eth0',
          mode: 'tc_ebpf',
          kubernetes: { namespace: 'logging', service: 'vector-aggregators', port: 5514 },
        },
      ]),
  ],
  [17, 'ip', () => expect(dockerfile).toMatch(/apt-get install[^&]* iproute2 /)],
  [
    26,
    'health as recommended',
    () => expect(sample().health).toEqual({ enabled: true, interval_secs: 5, timeout_secs: 2, protocol: 'icmp' }),
  ],
  [29, 'metrics', () => expect(sample().metrics).toEqual({ enabled: true, bind: '0.0.0.0:9090', path: '/metrics' })],
  [
    36,
    'ingress nodes',
    () =>
      expect(only(built('overlays/ingress-nodes'), 'DaemonSet').spec!.template.spec!.nodeSelector).toMatchObject({
        'node-role.kubernetes.io/ingress': 'true',
      }),
  ],
  [
    37,
    'not privileged, read-only, everything else dropped',
    () =>
      expect(agent().securityContext).toMatchObject({
        privileged: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      }),
  ],
  [
    38,
    'the label that a NetworkPolicy selects',
    () => expect(daemonSet().spec!.template.metadata!.labels).toMatchObject({ 'app.kubernetes.io/name': 'udp-fanout' }),
  ],
  [
    39,
    'one node at a time',
    () =>
      expect(daemonSet().spec!.updateStrategy).toEqual({ type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 1 } }),
  ],
  [
    40,
    'resources',
    () =>
      expect(agent().resources).toEqual({
        requests: { cpu: '100m', memory: '64Mi' },
        limits: { cpu: '2', memory: '256Mi' },
      }),
  ],
  [
    41,
    'Prometheus finds it',
    () =>
      expect(daemonSet().spec!.template.metadata!.annotations).toEqual({
        'prometheus.io/scrape': 'true',
        'prometheus.io/port': '9090',
        'prometheus.io/path': '/metrics',
      }),
  ],
  [47, 'tc', () => expect(dockerfile).toMatch(/apt-get install[^&]* iproute2 /)],
  [48, 'tcpdump', () => expect(dockerfile).toMatch(/apt-get install[^&]* tcpdump /)],
  [50, 'bpftool', () => expect(dockerfile).toMatch(/apt-get install[^&]* bpftool /)],
  [
    60,
    'Vector',
    () =>
      expect(only(manifest('examples/vector/vector.yaml'), 'Deployment')).toMatchObject({
        metadata: { name: 'vector-aggregators', namespace: 'logging' },
        spec: { replicas: 3 },
      }),
  ],
  [
    60,
    'its headless Service',
    () =>
      expect(only(manifest('examples/vector/vector.yaml'), 'Service')).toMatchObject({
        metadata: { name: 'vector-aggregators', namespace: 'logging' },
        spec: { clusterIP: 'None', selector: { app: 'vector' }, ports: [{ port: 5514, protocol: 'UDP' }] },
      }),
  ],
  [
    61,
    'the sample config is the Vector example’s',
    () =>
      expect(sample()).toMatchObject({
        listeners: [{ kubernetes: { service: 'vector-aggregators' } }],
        health: { protocol: 'icmp' },
      }),
  ],
  [
    62,
    'multi-tenant listeners',
    () =>
      expect(
        parse(configText(built('examples/multi-tenant'))).listeners.map((one: { bind: string; kubernetes: object }) => [
          one.bind,
          one.kubernetes,
        ]),
      ).toEqual([
        ['0.0.0.0:5514', { namespace: 'tenant-a', service: 'log-receivers', port: 5514 }],
        ['0.0.0.0:9125', { namespace: 'tenant-b', service: 'statsd-receivers', port: 9125 }],
        ['0.0.0.0:8888', { namespace: 'tenant-c', service: 'app-receivers', port: 8888 }],
      ]),
  ],
];

describe.skipIf(!present('kubectl'))(`the guide${without('kubectl')}`, () => {
  test.each(ROWS)('row %i: %s', (_row, _promise, shows) => shows());

  test('row 10: kubectl set image finds its container', () => {
    const image = 'registry.example/udp-fanout:latest';
    const set = ['set', 'image', '-f', '-', `udp-fanout=${image}`, '--local', '-o', 'jsonpath={..image}'];
    expect(output('kubectl', set, JSON.stringify(daemonSet())).trim()).toBe(image);
  });

  test('row 15: the Role is the one that the agent’s log offers, label by label, and kubectl can read that', () => {
    const refusal = 'User "system:serviceaccount:udp-fanout:udp-fanout" cannot list resource "endpointslices"';
    const offered = missingRole('logging', refusal);
    expect(parse(offered).items).toEqual([only(objects, 'Role'), only(objects, 'RoleBinding')]);
    // It has its own idea of what is YAML and what JSON.
    const read = output('kubectl', ['label', '--local', '-f', '-', 'some=label', '-o', 'name'], offered);
    expect(
      read
        .trim()
        .split('\n')
        .map((name) => name.split(/[./]/)[0]),
    ).toEqual(['role', 'rolebinding']);
  });
});

describe('what the guide does not say', () => {
  test('the namespace admits a pod on the host network', () => {
    const { labels } = all(objects, 'Namespace').find(({ metadata }) => metadata?.name === 'udp-fanout')!.metadata!;
    expect(labels).toMatchObject({ 'pod-security.kubernetes.io/enforce': 'privileged' });
  });

  test('the probes ask where the agent answers, and answers come from there', () => {
    const { startupProbe, livenessProbe, readinessProbe, ports, args, volumeMounts } = agent();
    const server = readFileSync(join(ROOT, 'agent/observe/server.ts'), 'utf8');
    for (const [probe, path] of [
      [startupProbe, '/healthz'],
      [livenessProbe, '/healthz'],
      [readinessProbe, '/readyz'],
    ] as const) {
      expect(probe?.httpGet).toEqual({ path, port: 'metrics' });
      expect(server).toContain(`'${path}'`);
    }
    expect(ports).toEqual([{ name: 'metrics', containerPort: 9090, protocol: 'TCP' }]);
    expect(args).toEqual(['--config', '/etc/udp-fanout/config.yaml']);
    expect(volumeMounts).toEqual([
      { name: 'config', mountPath: '/etc/udp-fanout', readOnly: true },
      { name: 'run', mountPath: '/run/udp-fanout' },
    ]);
  });

  test('no probe comes while the agent starts, and a slow start or an API server that is down restarts nothing', () => {
    const { startupProbe } = agent();
    expect(startupProbe?.initialDelaySeconds).toBeGreaterThanOrEqual(2);
    expect(startupProbe!.failureThreshold! * startupProbe!.periodSeconds!).toBeGreaterThanOrEqual(60);
    const pi = container(built('overlays/pi')).startupProbe;
    expect(pi).toEqual({ ...startupProbe, initialDelaySeconds: 8 });
  });

  test('the pod says where it is, is critical, and goes in seconds', () => {
    const paths = agent().env!.map(({ name, valueFrom }) => [name, valueFrom?.fieldRef?.fieldPath]);
    expect(paths).toEqual([
      ['POD_NAMESPACE', 'metadata.namespace'],
      ['NODE_NAME', 'spec.nodeName'],
    ]);
    expect(pod()).toMatchObject({ priorityClassName: 'system-node-critical', terminationGracePeriodSeconds: 10 });
  });

  test('nothing of the host is mounted but a folder of the agent’s own, which it leaves to the next', () => {
    expect(pod().volumes).toEqual([
      { name: 'config', configMap: { name: 'udp-fanout' } },
      { name: 'run', hostPath: { path: '/run/udp-fanout', type: 'DirectoryOrCreate' } },
    ]);
  });
});

/** Datagrams that are under way when a receiver comes or goes. */
describe('the receivers of the Vector example', () => {
  const [deployment] = all(manifest('examples/vector/vector.yaml'), 'Deployment');
  const { containers, terminationGracePeriodSeconds } = deployment!.spec!.template.spec!;
  const [vector] = containers;

  test('one is ready once its socket is there, not before', async () => {
    const [command = '', ...args] = vector!.readinessProbe!.exec!.command!;
    const probe = () => spawnSync(command, args).status;
    expect(probe()).not.toBe(0);
    const socket = createSocket('udp4');
    socket.bind(vector!.ports![0]!.containerPort, '127.0.0.1');
    await once(socket, 'listening');
    try {
      expect(probe()).toBe(0);
    } finally {
      socket.close();
    }
    expect(probe()).not.toBe(0);
  });

  test('one that is told to stop reads on until every node knows, and then has its time to hand on', () => {
    const [command, seconds] = vector!.lifecycle!.preStop!.exec!.command!;
    expect(command).toBe('sleep');
    expect(Number(seconds)).toBeGreaterThanOrEqual(10);
    // Vector's own limit (--graceful-shutdown-limit-secs) is 60.
    expect(terminationGracePeriodSeconds).toBeGreaterThan(Number(seconds) + 60);
  });
});
