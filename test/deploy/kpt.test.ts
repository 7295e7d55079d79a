/** The kpt package: what it deploys, and that setters reach what they are for. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { all, configText, container, type KubernetesObject, nameOf, objectsIn } from './objects.ts';
import { K8S, output, without } from './tools.ts';

const SETTERS = {
  interface: 'ens3.100',
  namespace: 'tenant-a',
  service: 'log-receivers',
  port: '6514',
  image: 'registry.example/team/udp-fanout:v9',
};

/** What gcr.io/kpt-fn/apply-setters:v0.2 does to a field, as a function that kpt runs: `# kpt-set:` and whole values. */
const APPLY_SETTERS = `#!/usr/bin/env python3
import re, sys
setters = ${JSON.stringify(SETTERS)}
def put(line):
    found = re.match(r'(.*?: )(\\S+)( # kpt-set: )\\$\\{(\\w+)\\}$', line)
    return line if not found else found[1] + ('"%s"' % setters[found[4]] if found[2].startswith('"') else setters[found[4]]) + found[3] + '\${' + found[4] + '}'
print('\\n'.join(put(line) for line in sys.stdin.read().split('\\n')))
`;

let copy = '';
beforeAll(() => {
  copy = mkdtempSync(join(tmpdir(), 'kpt-'));
  // What `kpt pkg get` brings of a repository: files, no links.
  cpSync(K8S, copy, { recursive: true, filter: (path) => !/k8s\/(rbac|daemonset)\.yaml$/.test(path) });
  writeFileSync(join(copy, 'apply-setters'), APPLY_SETTERS, { mode: 0o755 });
});
afterAll(() => rmSync(copy, { recursive: true }));

function packaged(): KubernetesObject[] {
  const { items } = parse(output('kpt', ['fn', 'source', copy])) as { items: (KubernetesObject | undefined)[] };
  return items.filter((one) => one !== undefined);
}

/** Those that `kpt live apply` sends to the cluster. */
const deployed = (objects: readonly KubernetesObject[]) =>
  objects.filter(({ metadata }) => !JSON.stringify(metadata).includes('config.kubernetes.io/local-config'));

const obstacle = ['kpt', 'python3'].map((tool) => without(tool)).find((text) => text !== '') ?? '';

describe.skipIf(obstacle !== '')(`the package${obstacle}`, () => {
  test('deploys what kubectl apply -k k8s/ deploys', () => {
    const names = (objects: readonly KubernetesObject[]) => objects.map((one) => `${one.kind} ${nameOf(one)}`).sort();
    const kustomized = ['rbac.yaml', 'daemonset.yaml'].flatMap((file) =>
      objectsIn(readFileSync(join(K8S, file), 'utf8')),
    );
    expect(names(deployed(packaged()))).toEqual(names(kustomized));
  });

  test('setters, then the function of its pipeline, change all that they are for', () => {
    const { status, stderr } = spawnSync('kpt', ['fn', 'eval', copy, '--exec', './apply-setters'], {
      cwd: copy,
      encoding: 'utf8',
    });
    expect(status, stderr).toBe(0);
    const objects = packaged();
    expect(container(objects).image).toBe(SETTERS.image);
    for (const kind of ['Role', 'RoleBinding'] as const) {
      expect(all(objects, kind).map(({ metadata }) => metadata?.namespace)).toEqual([SETTERS.namespace]);
    }
    const text = piped(objects);
    const { interface: nic, namespace, service, port } = SETTERS;
    expect(parse(text).listeners).toEqual([
      {
        name: 'syslog',
        bind: '0.0.0.0:5514',
        interface: nic,
        mode: 'tc_ebpf',
        kubernetes: { namespace, service, port: Number(port) },
      },
    ]);
    // The comments of the sample are still there, and in their column.
    expect(text.match(/#/g)).toHaveLength(
      configText(objectsIn(readFileSync(join(K8S, 'daemonset.yaml'), 'utf8'))).match(/#/g)!.length,
    );
    expect(text).toContain('    interface: ens3.100            # Host NIC');
  });
});

/** The agent's config after the StarlarkRun of the pipeline: its source is Python, too. */
function piped(objects: readonly KubernetesObject[]): string {
  const run = objects.find(({ kind }) => kind === 'StarlarkRun') as unknown as { source: string; params: object };
  const list = { items: objects, functionConfig: run };
  const program = `
import json, sys
class ctx: resource_list = json.loads(sys.stdin.read())
exec(${JSON.stringify(run.source)})
print(json.dumps(ctx.resource_list["items"]))`;
  return configText(JSON.parse(output('python3', ['-c', program], JSON.stringify(list))) as KubernetesObject[]);
}

test('every setter of the package is documented in its Kptfile or beside it', () => {
  const files = ['base/rbac.yaml', 'base/daemonset.yaml', 'listener.yaml'].map((file) =>
    readFileSync(join(K8S, file), 'utf8'),
  );
  const used = new Set(
    files.flatMap((text) => [...text.matchAll(/# kpt-set: \$\{(\w+)\}$/gm)].map(([, name]) => name)),
  );
  expect([...used].sort()).toEqual(Object.keys(SETTERS).sort());
});
