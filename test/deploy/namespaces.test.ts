/** What every kustomization below k8s/ would create, and `kubectl delete -k` of it would take away. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { present } from '../../setup/packages.mjs';
import { all, built, type KubernetesObject, kustomizations, nameOf, objectsIn } from './objects.ts';
import { K8S, without } from './tools.ts';

const OURS = ['app.kubernetes.io/name', 'app.kubernetes.io/part-of'];

/** Those of our labels that an object has. */
function labels({ metadata }: KubernetesObject): string[] {
  return OURS.filter((label) => metadata.labels?.[label] === 'udp-fanout');
}

describe.skipIf(!present('kubectl'))(`namespaces and labels${without('kubectl')}`, () => {
  test.each(kustomizations())('%s makes no namespace but our own: the receivers’ is theirs', (path) => {
    const names = all(built(path), 'Namespace').map(({ metadata }) => metadata?.name);
    expect(names.filter((name) => name !== 'udp-fanout')).toEqual([]);
  });

  test.each(kustomizations())('%s labels what is ours and nothing of the receivers', (path) => {
    const wrong = built(path).filter((one) => labels(one).length > 0 === path.startsWith('examples/vector'));
    expect(wrong.map((one) => `${one.kind} ${nameOf(one)}`)).toEqual([]);
  });

  test('they are all of them', () => {
    expect(kustomizations()).toEqual(expect.arrayContaining(['.', 'base', 'overlays/metallb', 'examples/vector']));
  });
});

test('no file has another namespace either, for who applies it by itself', () => {
  const files = globSync('**/*.yaml', { cwd: K8S });
  const objects = files.flatMap((file) => objectsIn(readFileSync(join(K8S, file), 'utf8')));
  const names = all(objects, 'Namespace').map(({ metadata }) => metadata?.name);
  expect([...new Set(names)]).toEqual(['udp-fanout']);
});
