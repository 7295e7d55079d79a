/** What a client needs to find the fake API server: a kubeconfig, or the files that a pod finds mounted. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Login {
  readonly url: string;
  readonly ca?: string;
  readonly token?: string;
}

/** Writes `kubeconfig` and `token` into a directory and returns the kubeconfig's path; rewrite `token` to rotate it. */
export function writeKubeconfig(directory: string, { url, ca, token = 'first-token' }: Login): string {
  const file = join(directory, 'kubeconfig');
  const tokenFile = join(directory, 'token');
  writeFileSync(tokenFile, token);
  const authority = ca ? { 'certificate-authority-data': Buffer.from(ca).toString('base64') } : {};
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'fake',
    clusters: [{ name: 'fake', cluster: { server: url, ...authority } }],
    contexts: [{ name: 'fake', context: { cluster: 'fake', user: 'agent' } }],
    users: [{ name: 'agent', user: { 'auth-provider': { name: 'tokenFile', config: { tokenFile } } } }],
  };
  // JSON is YAML too.
  writeFileSync(file, JSON.stringify(config, null, 2));
  return file;
}

/** Writes a service account as a pod has it mounted, below a root of its own; returns the directory of its files. */
export function writeServiceAccount(root: string, { ca, token = 'first-token' }: Omit<Login, 'url'>): string {
  const directory = join(root, 'var/run/secrets/kubernetes.io/serviceaccount');
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'token'), token);
  writeFileSync(join(directory, 'ca.crt'), ca ?? '');
  writeFileSync(join(directory, 'namespace'), 'udp-fanout');
  return directory;
}
