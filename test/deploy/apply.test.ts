/** kubectl itself applies and deletes what is below k8s/, against a cluster that has nothing but the receivers' namespace. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { present } from '../../setup/packages.mjs';
import { Cluster } from './cluster.ts';
import { ROOT, without } from './tools.ts';

const OURS = ['configmaps/udp-fanout', 'daemonsets/udp-fanout', 'serviceaccounts/udp-fanout'].map(
  (name) => `${name} in udp-fanout`,
);
const RIGHTS = ['rolebindings/udp-fanout in logging', 'roles/udp-fanout in logging'];
/** Nodes are in no namespace. */
const OF_NODES = ['clusterrolebindings/udp-fanout', 'clusterroles/udp-fanout'];
const NAMESPACES = ['namespaces/logging', 'namespaces/udp-fanout'];
const RECEIVERS = [
  'configmaps/vector-config in logging',
  'deployments/vector-aggregators in logging',
  'services/vector-aggregators in logging',
];

let cluster: Cluster;
// kubectl keeps what it discovered.
let home: string;
beforeEach(async () => {
  cluster = await Cluster.start('logging');
  home = mkdtempSync(join(tmpdir(), 'kubectl-'));
});
afterEach(() => {
  cluster.close();
  rmSync(home, { recursive: true });
});

async function kubectl(...args: readonly string[]): Promise<string> {
  const env = { PATH: process.env.PATH, HOME: home, KUBECONFIG: '/dev/null' };
  const { stdout } = await promisify(execFile)('kubectl', ['--server', cluster.url, ...args], { cwd: ROOT, env });
  return stdout;
}
const apply = (...what: readonly string[]) => kubectl('apply', '--validate=false', ...what);

describe.skipIf(!present('kubectl'))(`kubectl${without('kubectl')}`, () => {
  test('apply -k k8s/ goes through, and leaves the receivers’ namespace as it is', async () => {
    await apply('-k', 'k8s/');
    expect(cluster.names()).toEqual([...OURS, ...NAMESPACES, ...RIGHTS, ...OF_NODES].sort());
    expect(cluster.objects.get('/api/v1/namespaces/logging')).toEqual({});
  });

  test('without that namespace all but the Role is there, and kubectl says what is missing', async () => {
    cluster.objects.clear();
    await expect(apply('-k', 'k8s/')).rejects.toThrow(/namespaces "logging" not found/);
    expect(cluster.names()).toEqual([...OURS, ...OF_NODES, 'namespaces/udp-fanout'].sort());
    cluster.objects.set('/api/v1/namespaces/logging', {});
    await apply('-k', 'k8s/');
    expect(cluster.names()).toEqual([...OURS, ...NAMESPACES, ...RIGHTS, ...OF_NODES].sort());
  });

  test('the guide’s steps, one after the other', async () => {
    await apply('-f', 'k8s/rbac.yaml');
    expect(cluster.names()).toEqual(
      [...NAMESPACES, 'serviceaccounts/udp-fanout in udp-fanout', ...RIGHTS, ...OF_NODES].sort(),
    );
    await apply('-f', 'k8s/daemonset.yaml');
    expect(cluster.names()).toEqual([...OURS, ...NAMESPACES, ...RIGHTS, ...OF_NODES].sort());
    await apply('-k', 'k8s/examples/vector');
    expect(cluster.names()).toContain('deployments/vector-aggregators in logging');
  });

  test('a namespace that is missing is an error here as it is there', async () => {
    await expect(apply('-k', 'k8s/examples/multi-tenant')).rejects.toThrow(/namespaces "tenant-[abc]" not found/);
  });

  test.each(['k8s/', 'k8s/overlays/metallb', 'k8s/overlays/cilium'])(
    'delete -k %s, the inverse of the guide’s command, leaves the receivers',
    async (path) => {
      await apply('-k', path);
      await apply('-k', 'k8s/examples/vector');
      await kubectl('delete', '-k', path, '--wait=false');
      cluster.settle();
      expect(cluster.names()).toEqual([...RECEIVERS, 'namespaces/logging'].sort());
    },
  );

  test('leaving for good: the agents, then what removes their program, which leaves nothing either', async () => {
    await apply('-k', 'k8s/');
    await kubectl('delete', '-k', 'k8s/', '--wait=false');
    cluster.settle();
    await apply('-k', 'k8s/detach');
    expect(cluster.names()).toEqual(['daemonsets/udp-fanout-detach in udp-fanout', ...NAMESPACES].sort());
    await kubectl('delete', '-k', 'k8s/detach', '--wait=false');
    cluster.settle();
    expect(cluster.names()).toEqual(['namespaces/logging']);
  });

  test('delete -k of the example leaves the namespace that it was put into', async () => {
    await apply('-k', 'k8s/examples/vector');
    await kubectl('delete', '-k', 'k8s/examples/vector', '--wait=false');
    cluster.settle();
    expect(cluster.names()).toEqual(['namespaces/logging']);
  });
});
