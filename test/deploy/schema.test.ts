/**
 * Every object against Kubernetes' own schema: each is written as a literal of the type that @kubernetes/client-node has
 * for its kind, generated from the API's OpenAPI document, and the compiler finds keys that do not exist, values of a
 * wrong type and required keys that are missing.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { present } from '../../setup/packages.mjs';
import { built, type KubernetesObject, manifest } from './objects.ts';
import { K8S, ROOT, without } from './tools.ts';

/** Custom resources have no type there; alerts.test.ts looks at them. */
const IS_OURS = /^(v1|apps\/v1|rbac\.authorization\.k8s\.io\/v1)$/;
const KUSTOMIZATIONS = [
  '.',
  'overlays/metallb',
  'overlays/cilium',
  'overlays/ipv6',
  'overlays/pi',
  'overlays/ingress-nodes',
  'detach',
  'examples/vector',
  'examples/multi-tenant',
  'monitoring',
];

// Inside the project, so that the compiler finds the package.
let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(ROOT, 'node_modules/.schema-'));
});
afterAll(() => rmSync(directory, { recursive: true }));

/** The compiler's complaints about the objects; empty where they suit. */
function complaints(objects: readonly KubernetesObject[]): string {
  const typed = objects.filter(({ apiVersion }) => IS_OURS.test(apiVersion));
  const literals = typed.map(
    (one, index) => `export const o${index}: k.V1${one.kind} = ${JSON.stringify(one, null, 1)};`,
  );
  const file = join(directory, 'objects.ts');
  writeFileSync(file, `import type * as k from '@kubernetes/client-node';\n${literals.join('\n')}\n`);
  const options = [
    '--noEmit',
    '--strict',
    '--skipLibCheck',
    '--ignoreConfig',
    '--module',
    'nodenext',
    '--target',
    'es2024',
  ];
  const { stdout, status } = spawnSync('tsc', [...options, '--types', 'node', file], { cwd: ROOT, encoding: 'utf8' });
  return status === 0 ? '' : stdout;
}

test.skipIf(!present('kubectl'))(`all that is built is what the API takes${without('kubectl')}`, () => {
  const objects = KUSTOMIZATIONS.flatMap(built);
  expect(objects.length).toBeGreaterThan(50);
  expect(complaints(objects)).toBe('');
});

test('the manifests as they are written, too', () => {
  expect(
    complaints([...manifest('rbac.yaml'), ...manifest('daemonset.yaml'), ...manifest('examples/vector/vector.yaml')]),
  ).toBe('');
});

test('a wrong key, a wrong type and a missing key are found', () => {
  const object = (change: object) => complaints([{ ...manifest('daemonset.yaml')[1]!, ...change }]);
  expect(object({ spce: {} })).toMatch(/'"spce"' does not exist in type 'V1DaemonSet'/);
  expect(object({ metadata: { name: 5 } })).toMatch(/Type 'number' is not assignable to type 'string'/);
  expect(object({ spec: { selector: {} } })).toMatch(/Property ''template'' is missing/);
});

test.skipIf(!present('kubectl'))(`an overlay changes what it is for and nothing else${without('kubectl')}`, () => {
  const base = new Map(built('.').map((one) => [`${one.kind} ${one.metadata.name}`, JSON.stringify(one)]));
  const changed = (path: string) =>
    built(path).flatMap((one) => {
      const key = `${one.kind} ${one.metadata.name}`;
      return base.get(key) === JSON.stringify(one) ? [] : [key];
    });
  expect(changed('base')).toEqual([]);
  expect(changed('overlays/metallb')).toEqual(['ConfigMap udp-fanout', 'Service syslog', 'DaemonSet udp-fanout']);
  expect(changed('overlays/cilium')).toEqual(['ConfigMap udp-fanout', 'Service syslog']);
  expect(changed('overlays/ipv6')).toEqual(['ConfigMap udp-fanout']);
  expect(changed('overlays/pi')).toEqual(['DaemonSet udp-fanout']);
  expect(changed('overlays/ingress-nodes')).toEqual(['DaemonSet udp-fanout']);
});

test('no file below k8s/ has a label that a selector would be changed by', () => {
  expect(spawnSync('grep', ['-rlE', 'commonLabels|includeSelectors: *true', K8S]).stdout.toString()).toBe('');
});
