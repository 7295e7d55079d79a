/** From a YAML file to a Config, or to every mistake in it with line and column. */
import type { SocketAddress } from '../address.ts';
import type { EndpointSpec, Listener, Settings } from '../model.ts';
import { type Document, readDocument } from './document.ts';
import { draftOf } from './draft.ts';
import { explain, misspelt, pathOf } from './explain.ts';
import { type Diagnostic, type Locate, type Path, pathText, placed } from './position.ts';
import { crossFindings } from './rules.ts';
import {
  type ConfigOutput,
  configSchema,
  type LOG_FORMATS,
  type LOG_LEVELS,
  type ON_EXIT,
  type PROTOCOLS,
} from './schema.ts';
import { readText } from './text.ts';

export type { Diagnostic } from './position.ts';

export interface Config {
  readonly listeners: readonly Listener[];
  readonly health: Health;
  readonly metrics: { readonly enabled: boolean; readonly bind: SocketAddress; readonly path: string };
  readonly lifecycle: Lifecycle;
  readonly log: { readonly level: (typeof LOG_LEVELS)[number]; readonly format: (typeof LOG_FORMATS)[number] };
}

export interface Lifecycle {
  readonly onExit: (typeof ON_EXIT)[number];
  /** Seconds that the program serves without an agent; 0: for ever. */
  readonly leaseSecs: number;
}

export interface Health {
  readonly enabled: boolean;
  readonly intervalSecs: number;
  readonly timeoutSecs: number;
  readonly protocol: (typeof PROTOCOLS)[number];
  readonly failOpen: boolean;
  /** Failed probes in a row that take a downstream out. */
  readonly fall: number;
  /** Answered probes in a row that bring it back. */
  readonly rise: number;
}

/** What a config does not say itself. */
export interface Surroundings {
  /** The pod's own namespace (POD_NAMESPACE), where a listener names none. */
  readonly podNamespace?: string | undefined;
}

/** A config that cannot be used; the message has one line for each mistake, `FILE:LINE:COL: what is wrong, what is allowed`. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly file: string;
  readonly diagnostics: readonly Diagnostic[];

  constructor(file: string, diagnostics: readonly Diagnostic[], options?: ErrorOptions) {
    super(diagnostics.map(({ line, col, message }) => `${file}:${line}:${col}: ${message}`).join('\n'), options);
    this.file = file;
    this.diagnostics = diagnostics;
  }
}

/** Reads and checks the config in `file`. Throws ConfigError, also where the file cannot be read. */
export function loadConfig(file: string, surroundings: Surroundings = {}): Config {
  const text = readText(file);
  if (typeof text !== 'string') throw new ConfigError(file, [text]);
  return parseConfig(text, file, surroundings);
}

/** Checks the YAML in `text`; `file` only names it. Throws ConfigError with every mistake, in the order of the file. */
export function parseConfig(text: string, file: string, surroundings: Surroundings = {}): Config {
  const document = readDocument(text);
  if (document.value === undefined) throw new ConfigError(file, inOrder(document.diagnostics));
  const parsed = judged(document.value, file);
  const diagnostics = [...document.diagnostics, ...findMistakes(document, parsed.error?.issues ?? [])];
  if (parsed.data === undefined || diagnostics.length > 0) throw new ConfigError(file, inOrder(diagnostics));
  return toConfig(parsed.data, surroundings);
}

/** The schema hands issues on as arguments of a call: more than some hundred thousand find no room on the stack. */
function judged(value: unknown, file: string) {
  try {
    return configSchema.safeParse(value);
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new ConfigError(file, [{ line: 1, col: 1, message: 'has more mistakes than can be listed' }], { cause });
  }
}

type Issues = Parameters<typeof explain>[0];

function findMistakes({ value, unread, locate }: Document, issues: Issues): readonly Diagnostic[] {
  const slips = misspelt(issues, value);
  const meant = slips.map((slip) => slip.meant);
  const reported = new Set([...unread, ...meant].map(pathText));
  const fresh = issues.filter((issue) => !reported.has(pathText(pathOf(issue))));
  // An unknown key leaves the map that it stands in usable.
  const broken: readonly Path[] = fresh.filter((issue) => issue.code !== 'unrecognized_keys').map(pathOf);
  const written = new Map(slips.map((slip) => [pathText(slip.meant), slip.written]));
  const locateMeant: Locate = (path, at) => locate(written.get(pathText(path)) ?? path, at);
  const findings = [...explain(fresh, value), ...crossFindings(draftOf(value, broken, meant), locateMeant)];
  return findings.map((finding) => placed(finding, locateMeant));
}

function inOrder(diagnostics: readonly Diagnostic[]): readonly Diagnostic[] {
  return diagnostics.toSorted((a, b) => a.line - b.line || a.col - b.col);
}

function toConfig(
  { listeners, health, metrics, lifecycle, log }: ConfigOutput,
  { podNamespace }: Surroundings,
): Config {
  return {
    listeners: listeners.map((listener, id) => ({
      id,
      name: listener.name,
      bind: listener.bind,
      interfaces: listener.interfaces ?? (listener.interface === undefined ? [] : [listener.interface]),
      mode: listener.mode,
      endpoints: toEndpoints(listener, health.enabled, podNamespace),
      source: listener.source,
      pmtu: listener.pmtu,
      settings: toSettings(listener.settings),
    })),
    health: {
      enabled: health.enabled,
      intervalSecs: health.interval_secs,
      timeoutSecs: health.timeout_secs,
      protocol: health.protocol,
      failOpen: health.fail_open,
      fall: health.fall,
      rise: health.rise,
    },
    metrics,
    lifecycle: { onExit: lifecycle.on_exit, leaseSecs: lifecycle.lease_secs },
    log,
  };
}

function toEndpoints(
  { kubernetes, downstream }: ConfigOutput['listeners'][number],
  isProbed: boolean,
  podNamespace = '',
): EndpointSpec {
  if (kubernetes === undefined) {
    const endpoints = (downstream ?? []).map(({ name, address, weight }) => {
      return { address, weight, ...(name === undefined ? {} : { name }) };
    });
    return { kind: 'static', list: endpoints };
  }
  const { service, port } = kubernetes;
  const namespace = kubernetes.namespace ?? (podNamespace.trim() || 'default');
  const { unready = isProbed ? 'last_resort' : 'never' } = kubernetes;
  return {
    kind: 'kubernetes',
    namespace,
    service,
    ...(port === undefined ? {} : { port }),
    ...(unready === 'never' ? {} : { unready }),
  };
}

function toSettings(settings: ConfigOutput['listeners'][number]['settings']): Settings {
  return {
    maxPacketSize: settings.max_packet_size,
    batchSize: settings.batch_size,
    workers: settings.workers,
    pinCpus: settings.pin_cpus,
    recvBufSize: settings.recv_buf_size,
    maxSources: settings.max_sources,
  };
}
