/** What a container runtime makes of k8s/daemonset.yaml, as far as a process can tell: capabilities, files, login. */
import { mkdtempSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse, parseAllDocuments } from 'yaml';
import { writeServiceAccount } from '../../lab/api/kubeconfig.ts';
import type { RemoteApi } from '../../lab/api/remote.ts';
import type { Host } from '../../lab/host.ts';

export interface PodOptions {
  /** The image's root file system; without it this machine's. Read-only either way. */
  readonly root?: string;
  /** As the manifest writes them; without it the manifest's. */
  readonly capabilities?: readonly string[];
  /** What is mounted at /etc/udp-fanout. */
  readonly config?: string;
  /** What is mounted at /var/run. */
  readonly run?: string;
}

interface Manifest {
  readonly kind: string;
  readonly data: { readonly 'config.yaml': string };
  readonly spec: {
    readonly template: {
      readonly spec: { readonly containers: readonly Container[]; readonly initContainers?: readonly [Container] };
    };
  };
}

interface Container {
  readonly args?: readonly string[];
  readonly securityContext: {
    readonly readOnlyRootFilesystem: boolean;
    readonly capabilities: { readonly add: readonly string[]; readonly drop: readonly string[] };
  };
  readonly livenessProbe: { readonly httpGet: { readonly path: string } };
  readonly readinessProbe: { readonly httpGet: { readonly path: string } };
}

const read = (path: string) => readFileSync(join(import.meta.dirname, '../../k8s', path), 'utf8');
const [configMap, daemonSet] = parseAllDocuments(read('daemonset.yaml')).map((one) => one.toJS() as Manifest);

/** The agent's config and container in the manifest. */
export const sampleConfig = configMap!.data['config.yaml'];
export const container = daemonSet!.spec.template.spec.containers[0]!;

/** What k8s/detach runs on every node: its arguments and its capabilities. */
export function detaching(): { readonly args: readonly string[]; readonly capabilities: readonly string[] } {
  const [, manifest] = parseAllDocuments(read('detach/detach.yaml')).map((one) => one.toJS() as Manifest);
  const [{ args, securityContext }] = manifest!.spec.template.spec.initContainers!;
  return { args: args!, capabilities: securityContext.capabilities.add };
}

/** The capabilities that are left with components/without-sys-admin. */
export function capabilitiesWithoutSysAdmin(): readonly string[] {
  const { patches } = parse(read('components/without-sys-admin/kustomization.yaml')) as {
    patches: { patch: string }[];
  };
  const steps = patches.flatMap(
    ({ patch }) => parse(patch) as { op?: string; path: string } | { op?: string; path: string }[],
  );
  const [removed, ...more] = steps
    .filter(({ op }) => op === 'remove')
    .map(({ path }) => /\/add\/(\d+)$/.exec(path)?.[1]);
  if (removed === undefined || more.length > 0)
    throw new Error('components/without-sys-admin removes not one capability');
  return container.securityContext.capabilities.add.filter((_, at) => at !== Number(removed));
}

/** Runs in a mount namespace of its own, which goes with it. */
const ENTER = `set -eu
root=$1 capabilities=$2 config=$3 run=$4
shift 4
if [ "$root" != / ]; then
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount --rbind /dev "$root/dev"
fi
[ -z "$config" ] || mount --bind "$config" "$root/etc/udp-fanout"
[ -z "$run" ] || mount --bind "$run" "$root/run"
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --inh-caps=-all --bounding-set="-all,$capabilities" -- "$@"`;

/** The beginning of a command that is to run as in the pod. */
export function asInPod({ root = '/', capabilities, config = '', run = '' }: PodOptions = {}): string[] {
  const { add, drop } = container.securityContext.capabilities;
  if (drop.join() !== 'ALL') throw new Error(`the manifest drops ${drop.join()}, and here all is dropped`);
  const kept = (capabilities ?? add).map((name) => `+${name.toLowerCase()}`);
  return ['unshare', '--mount', 'sh', '-c', ENTER, 'sh', root, kept.join(','), config, run];
}

/** A pod's way to the API server: its environment, and a directory that is to be its /var/run. */
export function login({ namespace }: Pick<Host, 'namespace'>, api: RemoteApi, ca: string) {
  const directory = mkdtempSync(join(namespace.directory, 'pod-'));
  writeServiceAccount(directory, { ca });
  const { clusters } = JSON.parse(readFileSync(api.kubeconfig, 'utf8')) as {
    clusters: { cluster: { server: string } }[];
  };
  const { hostname, port } = new URL(clusters[0]!.cluster.server);
  const env = {
    POD_NAMESPACE: 'udp-fanout',
    NODE_NAME: 'node',
    KUBERNETES_SERVICE_HOST: hostname,
    KUBERNETES_SERVICE_PORT: port,
  };
  return { env, run: join(directory, 'var/run') };
}
