/** The endpoints of listeners that name a Service: one stream for each, whoever asks for it. */
import { isDeepStrictEqual } from 'node:util';
import type { Family } from '../address.ts';
import { now as clockNow, setTimer, type Timer } from '../clock.ts';
import type { Log } from '../log.ts';
import { LogLimiter } from '../log-limit.ts';
import type { EndpointSet, EndpointSpec, Listener } from '../model.ts';
import { type NodeApi, openNodeApi, openSliceApi, type SliceApi } from './api.ts';
import { openCredentials } from './credentials.ts';
import { type EndpointSource, endpointSet } from './endpoint-source.ts';
import { resolveEndpoints } from './endpoints.ts';
import { NodeAddresses } from './node-addresses.ts';
import { type ReflectorDependencies, SliceReflector, type StreamStatus } from './slice-reflector.ts';

export interface KubernetesDependencies {
  readonly log: Log;
  readonly api?: SliceApi;
  /** Absent beside an `api`: nobody is asked for nodes. */
  readonly nodeApi?: NodeApi;
  readonly timer?: Timer;
  readonly now?: () => number;
  readonly random?: () => number;
}

type StreamDependencies = Omit<ReflectorDependencies, 'namespace' | 'service' | 'onChange'>;
type SourceDependencies = StreamDependencies & { readonly nodeApi: NodeApi | undefined };
type ServiceSpec = Extract<EndpointSpec, { kind: 'kubernetes' }>;

/** What a listener that names a Service is given. */
interface Follower {
  readonly spec: ServiceSpec;
  /** The version of the stream that `set` was made of. */
  version: number | undefined;
  set: EndpointSet | undefined;
  /** What is remarked of the slices. */
  remarks: readonly string[];
}

/** Asks nothing of the API server before `start`. */
export function openKubernetesSource({
  log,
  api,
  nodeApi,
  timer = setTimer,
  now = clockNow,
  random = Math.random,
}: KubernetesDependencies): EndpointSource {
  const shared = { log, timer, now, random };
  if (api) return new KubernetesSource({ ...shared, api, nodeApi });
  const credentials = openCredentials();
  return new KubernetesSource({ ...shared, api: openSliceApi(credentials), nodeApi: openNodeApi(credentials) });
}

class KubernetesSource implements EndpointSource {
  readonly #deps: StreamDependencies;
  readonly #alerts: LogLimiter;
  readonly #nodes: NodeAddresses | undefined;
  readonly #streams = new Map<string, SliceReflector>();
  /** By listener's name. */
  readonly #followers = new Map<string, Follower>();
  #onChange: (() => void) | undefined;

  constructor({ nodeApi, ...dependencies }: SourceDependencies) {
    this.#deps = dependencies;
    this.#alerts = new LogLimiter(dependencies);
    const onChange = () => this.#onChange?.();
    this.#nodes = nodeApi && new NodeAddresses({ ...dependencies, api: nodeApi, onChange });
  }

  want(listeners: readonly Listener[]): void {
    const wanted = new Map(
      listeners.flatMap(({ name, endpoints }) => (endpoints.kind === 'kubernetes' ? [[name, endpoints] as const] : [])),
    );
    for (const [name, { spec }] of this.#followers) {
      if (!isDeepStrictEqual(spec, wanted.get(name))) this.#forget(name);
    }
    const keys = new Set([...wanted.values()].map(keyOf));
    for (const [key, stream] of this.#streams) {
      if (keys.has(key)) continue;
      this.#streams.delete(key);
      stream.close();
    }
    for (const [name, spec] of wanted) {
      if (!this.#followers.has(name)) {
        this.#followers.set(name, { spec, version: undefined, set: undefined, remarks: [] });
      }
      if (!this.#streams.has(keyOf(spec))) this.#open(spec);
    }
  }

  endpoints({ name }: Listener): EndpointSet | undefined {
    const follower = this.#followers.get(name);
    const stream = follower && this.#streams.get(keyOf(follower.spec));
    if (!stream?.slices) return undefined;
    if (follower!.version !== stream.version) this.#resolve(name, follower!, stream);
    return follower!.set;
  }

  nodeAddress(name: string, family: Family): string | undefined {
    return this.#nodes?.addressOf(name, family);
  }

  get nodesVersion(): number {
    return this.#nodes?.version ?? 0;
  }

  start(onChange: () => void): void {
    this.#onChange = onChange;
    for (const stream of this.#streams.values()) void stream.run();
  }

  status(): readonly StreamStatus[] {
    return [...this.#streams.values()].map((stream) => stream.status());
  }

  close(): void {
    for (const stream of this.#streams.values()) stream.close();
    this.#nodes?.close();
    this.#alerts.close();
  }

  #open(spec: ServiceSpec): void {
    const { namespace, service } = spec;
    const onChange = () => this.#onChange?.();
    const stream = new SliceReflector({ ...this.#deps, namespace, service, onChange });
    this.#streams.set(keyOf(spec), stream);
    if (this.#onChange) void stream.run();
  }

  #resolve(name: string, follower: Follower, stream: SliceReflector): void {
    const { spec } = follower;
    const { endpoints, unready, remarks } = resolveEndpoints(stream.slices ?? [], spec.port);
    this.#remark(name, follower, remarks);
    follower.version = stream.version;
    follower.set = endpointSet(spec.unready === 'last_resort' ? [...endpoints, ...unready] : endpoints);
    this.#followNodes();
  }

  #followNodes(): void {
    const all = [...this.#followers.values()].flatMap(({ set }) => set?.list ?? []);
    this.#nodes?.want(new Set(all.map(({ nodeName }) => nodeName).filter((name) => name !== undefined)));
  }

  #remark(name: string, follower: Follower, remarks: readonly string[]): void {
    const fields = { listener: name, namespace: follower.spec.namespace, service: follower.spec.service };
    for (const message of remarks) this.#alerts.raise(`${name} ${message}`, { message, fields });
    for (const old of follower.remarks) {
      if (!remarks.includes(old)) this.#alerts.resolve(`${name} ${old}`, { message: `no longer: ${old}`, fields });
    }
    follower.remarks = remarks;
  }

  #forget(name: string): void {
    for (const remark of this.#followers.get(name)?.remarks ?? []) this.#alerts.forget(`${name} ${remark}`);
    this.#followers.delete(name);
    this.#followNodes();
  }
}

/** Neither name can hold a slash (RFC 1123 labels). */
function keyOf({ namespace, service }: ServiceSpec): string {
  return `${namespace}/${service}`;
}
