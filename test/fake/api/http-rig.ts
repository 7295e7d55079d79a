/** A fake API server, and listeners that follow it over real HTTP on a clock that goes faster than the wall's. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { formatAddress } from '../../../agent/address.ts';
import { openSliceApi } from '../../../agent/discovery/api.ts';
import { type Credentials, openCredentials } from '../../../agent/discovery/credentials.ts';
import type { EndpointSource } from '../../../agent/discovery/endpoint-source.ts';
import { openKubernetesSource } from '../../../agent/discovery/kubernetes.ts';
import type { StreamStatus } from '../../../agent/discovery/slice-reflector.ts';
import type { Listener } from '../../../agent/model.ts';
import { writeKubeconfig } from '../../../lab/api/kubeconfig.ts';
import { FakeApi, type FakeApiOptions } from '../../../lab/api/server.ts';
import { patient, SLOWNESS } from '../../../lab/patience.ts';
import { fastClock } from '../clock.ts';
import { aListener, aLog } from '../words.ts';

/** A hundred seconds in one; where all takes longer, so that the fast clock does not outrun it, fewer. */
export const SPEED = 100 / SLOWNESS;

export interface HttpRig {
  readonly api: FakeApi;
  readonly directory: string;
  readonly log: ReturnType<typeof aLog>;
  readonly source: EndpointSource;
  readonly listeners: readonly Listener[];
  /** Of listener number `id`, 0 if left out; undefined as long as nobody knows. */
  endpoints(id?: number): readonly string[] | undefined;
  status(id?: number): StreamStatus;
  /** Waits until the listener has exactly these. */
  settles(addresses: readonly string[] | undefined, id?: number): Promise<void>;
  /** Waits until so many watches stand. */
  watched(count?: number): Promise<void>;
  close(): Promise<void>;
}

export interface HttpRigOptions extends FakeApiOptions {
  readonly listeners?: readonly Listener[];
  /** False: the API server does not run yet. */
  readonly started?: boolean;
  readonly prepare?: (api: FakeApi) => void;
  /** Another way to authenticate than the kubeconfig that the rig writes. */
  readonly login?: (api: FakeApi, directory: string) => Credentials;
}

/** A listener of a Service, on UDP port 9000. */
export function following(namespace = 'logging', id = 0, service = 'receivers'): Listener {
  return aListener({ id, endpoints: { kind: 'kubernetes', namespace, service, port: 9000 } });
}

export async function httpRig(options: HttpRigOptions = {}): Promise<HttpRig> {
  const { listeners = [following()], started = true, prepare, login = kubeconfigLogin } = options;
  const directory = mkdtempSync(join(tmpdir(), 'discovery-'));
  const api = new FakeApi({ speed: SPEED, bookmarkMs: 60_000 / SPEED, ...options });
  await api.start();
  if (!started) await api.stop();
  prepare?.(api);
  const log = aLog();
  const credentials = login(api, directory);
  const source = openKubernetesSource({ log, api: openSliceApi(credentials), ...fastClock(SPEED) });
  source.want(listeners);
  source.start(() => {});
  const endpoints = (id = 0) => source.endpoints(listeners[id]!)?.list.map(({ address }) => formatAddress(address));
  const soon = { timeout: patient(5000), interval: 2 };
  return {
    api,
    directory,
    log,
    source,
    listeners,
    endpoints,
    status: (id = 0) => source.status()[id]!,
    settles: (addresses, id) => expect.poll(() => endpoints(id), soon).toEqual(addresses),
    watched: (count = 1) => expect.poll(() => api.watches, soon).toBe(count),
    close: async () => {
      source.close();
      await api.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function kubeconfigLogin(api: FakeApi, directory: string): Credentials {
  const { tls } = api;
  process.env.KUBECONFIG = writeKubeconfig(directory, { url: api.url, ...(tls && { ca: tls.ca }) });
  return openCredentials();
}
