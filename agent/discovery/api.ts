/**
 * The questions we ask of the Kubernetes API, and the only rights they need: list and watch of EndpointSlices in one
 * namespace (kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes"), and where it is
 * given, get of the Nodes that the endpoints live on.
 */
import type { IncomingMessage } from 'node:http';
import type { Credentials } from './credentials.ts';
import { ApiFailure, failureOf, type Status } from './failure.ts';
import { failureIn, get } from './http.ts';
import { LineSplitter } from './lines.ts';

/** Which slices: those of one Service. */
export interface Selection {
  readonly namespace: string;
  readonly service: string;
}

export interface SliceList {
  readonly resourceVersion: string;
  /** API objects, as they came. */
  readonly items: readonly unknown[];
}

/** A line of a watch; `resourceVersion` is that of the object, absent where it has none. */
export interface WatchEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK';
  readonly object: unknown;
  readonly resourceVersion?: string;
}

export interface WatchOptions {
  readonly from: string;
  /** The server ends the watch after so long. */
  readonly timeoutSeconds: number;
  /** The watch stands. */
  readonly onOpen: () => void;
  /** Bytes came, whole events or not. */
  readonly onBytes: () => void;
  readonly onEvent: (event: WatchEvent) => void;
}

/** Throws ApiFailure, or the signal's reason when that aborts. */
export interface SliceApi {
  list(selection: Selection, signal: AbortSignal): Promise<SliceList>;
  /** Returns when the server ends the watch in good order. */
  watch(selection: Selection, options: WatchOptions, signal: AbortSignal): Promise<void>;
}

/** Throws ApiFailure, or the signal's reason when that aborts. */
export interface NodeApi {
  /** The Node object. */
  node(name: string, signal: AbortSignal): Promise<unknown>;
}

/** v1 is there from Kubernetes 1.21 on, v1beta1 up to 1.24. */
const VERSIONS = ['v1', 'v1beta1'] as const;
const LARGEST_LIST = 64 << 20;
/** etcd takes 1.5 MiB. */
const LARGEST_NODE = 4 << 20;

export function openSliceApi(credentials: Credentials): SliceApi {
  let current: (typeof VERSIONS)[number] = 'v1';
  const ask = async (selection: Selection, query: Record<string, string>, signal: AbortSignal) => {
    const version = current;
    try {
      return await get(credentials, pathOf(version, selection, query), signal);
    } catch (error) {
      if (!(error instanceof ApiFailure)) throw error;
      forgetIfRefused(credentials, error);
      if (error.reason !== 'not_found') throw error;
      const other = VERSIONS.find((one) => one !== version)!;
      // Another stream may have found out before us.
      if (current === version) current = other;
      throw new ApiFailure('not_found', `no discovery.k8s.io/${version} here, trying ${other} (${error.message})`);
    }
  };
  return {
    list: async (selection, signal) => readList(await ask(selection, {}, signal), signal),
    watch: async (selection, options, signal) => {
      const query = {
        watch: '1',
        allowWatchBookmarks: 'true',
        resourceVersion: options.from,
        timeoutSeconds: String(options.timeoutSeconds),
      };
      const response = await ask(selection, query, signal);
      options.onOpen();
      await readWatch(response, options, signal);
    },
  };
}

export function openNodeApi(credentials: Credentials): NodeApi {
  return {
    async node(name, signal) {
      // Any version will do: such a question is answered from the server's memory.
      const path = `/api/v1/nodes/${encodeURIComponent(name)}?resourceVersion=0`;
      try {
        return await readJson(await get(credentials, path, signal), signal, LARGEST_NODE);
      } catch (error) {
        if (error instanceof ApiFailure) forgetIfRefused(credentials, error);
        throw error;
      }
    },
  };
}

/** A rotated token, client certificate or authority looks like either of these. */
function forgetIfRefused(credentials: Credentials, { reason }: ApiFailure): void {
  if (reason === 'unauthorized' || reason === 'unreachable') credentials.forget();
}

function pathOf(version: string, { namespace, service }: Selection, query: Record<string, string>): string {
  const search = new URLSearchParams({ labelSelector: `kubernetes.io/service-name=${service}`, ...query });
  const place = encodeURIComponent(namespace);
  return `/apis/discovery.k8s.io/${version}/namespaces/${place}/endpointslices?${search}`;
}

async function readList(response: IncomingMessage, signal: AbortSignal): Promise<SliceList> {
  const { items, metadata } = (await readJson(response, signal, LARGEST_LIST)) as {
    items?: unknown;
    metadata?: { resourceVersion?: unknown };
  };
  const resourceVersion = metadata?.resourceVersion;
  if (typeof resourceVersion !== 'string' || !(items === undefined || items === null || Array.isArray(items))) {
    throw new ApiFailure('malformed', 'the answer to the list is no EndpointSliceList');
  }
  return { resourceVersion, items: items ?? [] };
}

async function readJson(response: IncomingMessage, signal: AbortSignal, most: number): Promise<object> {
  const chunks: Buffer[] = [];
  let length = 0;
  await readBody(response, signal, (chunk) => {
    length += chunk.length;
    if (length > most) throw new ApiFailure('malformed', `an answer of more than ${most} bytes`);
    chunks.push(chunk);
  });
  return parsed(Buffer.concat(chunks, length).toString('utf8'));
}

async function readWatch(response: IncomingMessage, options: WatchOptions, signal: AbortSignal): Promise<void> {
  const lines = new LineSplitter((line) => {
    if (line.trim() !== '') options.onEvent(readEvent(line));
  });
  await readBody(response, signal, (chunk) => {
    options.onBytes();
    lines.push(chunk);
  });
}

async function readBody(response: IncomingMessage, signal: AbortSignal, onChunk: (chunk: Buffer) => void) {
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) onChunk(chunk);
  } catch (cause) {
    if (cause instanceof RangeError) throw new ApiFailure('malformed', cause.message, { cause });
    throw failureIn(cause, signal, 'reset');
  }
}

/** Throws ApiFailure for an ERROR event and for a line that is no event: what it told us is lost. */
function readEvent(line: string): WatchEvent {
  const { type, object } = parsed(line) as { type?: unknown; object?: unknown };
  switch (type) {
    case 'ADDED':
    case 'MODIFIED':
    case 'DELETED':
    case 'BOOKMARK': {
      const { metadata } = (object ?? {}) as { metadata?: { resourceVersion?: unknown } | null };
      const version = metadata?.resourceVersion;
      return { type, object, ...(typeof version === 'string' && { resourceVersion: version }) };
    }
    case 'ERROR': {
      const status = (object ?? {}) as Status;
      throw failureOf(status.code ?? 500, status);
    }
    default:
      throw new ApiFailure('malformed', `a watch event of type ${JSON.stringify(type)?.slice(0, 100)}`);
  }
}

function parsed(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value;
  } catch {
    // Below.
  }
  throw new ApiFailure('malformed', `no JSON object: ${JSON.stringify(text.slice(0, 80))}`);
}
