/**
 * The programs of a real control plane: etcd and kubectl are Debian's packages; kube-apiserver is built from Debian's
 * source, since the package has the client alone. All of it is kept in a cache, without which the build takes minutes.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AptRoot, aptObstacle } from '../apt/root.ts';
import { CACHE } from '../programs.ts';
import { buildApiServer } from './build.ts';

/** The last release whose source has the server; later ones were cut down to the client. */
const SERVER_SUITE = 'bookworm';
/** The oldest kubectl that knows what our kustomizations use. */
const CLIENT_SUITE = 'trixie';

export interface Programs {
  readonly etcd: string;
  readonly apiServer: string;
  readonly kubectl: string;
  /** What they are, for people. */
  readonly versions: Readonly<Record<'etcd' | 'kube-apiserver' | 'kubectl', string>>;
}

/** Why they cannot be had; undefined if they are there or can be fetched, which installs what that needs. */
export function programsObstacle(): string | undefined {
  return existsSync(stampFile()) ? undefined : aptObstacle();
}

/** From the cache, or fetched and built into it; `say` gets a line for each step that takes long. */
export function programs(say: (line: string) => void): Programs {
  const folder = cacheFolder();
  const paths = {
    etcd: join(folder, 'etcd/usr/bin/etcd'),
    kubectl: join(folder, 'kubectl/usr/bin/kubectl'),
    apiServer: join(folder, 'kube-apiserver'),
  };
  // Written last, so that what an interrupted run left is made anew.
  if (!existsSync(stampFile())) {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    writeFileSync(stampFile(), JSON.stringify(fetched(folder, say), null, 2));
  }
  return { ...paths, versions: JSON.parse(readFileSync(stampFile(), 'utf8')) as Programs['versions'] };
}

function fetched(folder: string, say: (line: string) => void): Programs['versions'] {
  const apt = new AptRoot(join(folder, 'apt'), [SERVER_SUITE, CLIENT_SUITE]);
  say('fetching etcd, kubectl, the source of Kubernetes and its compiler');
  apt.update();
  const work = join(folder, 'work');
  const versions = {
    etcd: `${apt.unpack('etcd-server', SERVER_SUITE, join(folder, 'etcd'))} of ${SERVER_SUITE}`,
    kubectl: `${apt.unpack('kubectl', CLIENT_SUITE, join(folder, 'kubectl'))} of ${CLIENT_SUITE}`,
  };
  for (const name of ['golang-1.19-go', 'golang-1.19-src']) apt.unpack(name, SERVER_SUITE, join(work, 'go'));
  const goRoot = join(work, 'go/usr/lib/go-1.19');
  // Its imports are found by this path alone: it is of the time before modules.
  const source = join(work, 'path/src/k8s.io/kubernetes');
  mkdirSync(join(source, '..'), { recursive: true });
  const version = apt.unpackSource('kubernetes', SERVER_SUITE, source);
  apt.clear();
  say(`building kube-apiserver ${version}: about six minutes on two free cores, once`);
  renameSync(buildApiServer({ work, goRoot, source, version }), join(folder, 'kube-apiserver'));
  rmSync(work, { recursive: true });
  return { ...versions, 'kube-apiserver': `${version}, built from the source of ${SERVER_SUITE}` };
}

function cacheFolder(): string {
  return join(CACHE, `cluster-${process.arch}`);
}

function stampFile(): string {
  return join(cacheFolder(), 'versions.json');
}
