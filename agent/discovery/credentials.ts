/**
 * Where the API server is and how we show who we are: in a pod by its service account, elsewhere by KUBECONFIG. All of
 * it is the Kubernetes client's: CA, client certificates, tokens from files and exec plugins, proxies.
 */
import { existsSync } from 'node:fs';
import type { RequestOptions } from 'node:https';
import { KubeConfig } from '@kubernetes/client-node';
import { ApiFailure } from './failure.ts';

export interface Credentials {
  /** The server's base URL, and the request options that authenticate. Throws ApiFailure. */
  request(): Promise<{ readonly server: URL; readonly options: RequestOptions }>;
  /** Reads everything anew at the next request: the server did not accept what we had. */
  forget(): void;
}

const TOKEN = '/var/run/secrets/kubernetes.io/serviceaccount/token';

/** `root` stands before /var/run/secrets. */
export function openCredentials(root = ''): Credentials {
  let config: KubeConfig | undefined;
  return {
    request: async () => {
      try {
        config ??= load(root);
        return await authenticated(config);
      } catch (cause) {
        // A file that is being replaced, a plugin that failed: the next try reads all of it again.
        config = undefined;
        const why = (cause as Error).message.trim().split('\n')[0];
        throw new ApiFailure('credentials', `no way to authenticate: ${why}`, { cause });
      }
    },
    forget: () => {
      config = undefined;
    },
  };
}

function load(root: string): KubeConfig {
  const config = new KubeConfig();
  const { KUBECONFIG, KUBERNETES_SERVICE_HOST } = process.env;
  const inCluster = KUBERNETES_SERVICE_HOST !== undefined && existsSync(`${root}${TOKEN}`);
  if (KUBECONFIG) config.loadFromDefault();
  else if (inCluster) config.loadFromCluster(root);
  else throw new Error('this is no pod with a service account, and KUBECONFIG is not set');
  const { clusters, users, contexts } = config;
  // `kubectl proxy` speaks plain HTTP, where there is nothing to verify and the client wants to hear it said.
  const plain = clusters.map((one) => (one.server.startsWith('http:') ? { ...one, skipTLSVerify: true } : one));
  config.loadFromOptions({ clusters: plain, users, contexts, currentContext: config.getCurrentContext() });
  return config;
}

async function authenticated(config: KubeConfig) {
  const cluster = config.getCurrentCluster();
  if (!cluster) throw new Error(`the kubeconfig has no cluster for its context "${config.getCurrentContext()}"`);
  const options: RequestOptions = {};
  await config.applyToHTTPSOptions(options);
  const { Authorization: token, ...headers } = (options.headers ?? {}) as Record<string, string>;
  // A token file may end with a newline, which a header may not.
  return {
    server: new URL(cluster.server),
    options: { ...options, headers: { ...headers, ...(token && { Authorization: token.trim() }) } },
  };
}
