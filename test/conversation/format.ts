/**
 * A conversation with an API server, as plain data: what is asked and what must be answered, with the parts that differ
 * from one server and run to the next as `{names}`. The first time that a name stands in an answer it takes its value
 * from there; from then on it is that value, in requests too. An answer may hold more than what is written. `{namespace}`
 * has a value from the start, and so has `{version}`, the newest that the server has of discovery.k8s.io.
 */
import { readFileSync } from 'node:fs';

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

export type Exchange =
  | {
      /** `GET /path`, with a body where there is one to send; `token` in place of the right one. */
      readonly request: string;
      readonly body?: Json;
      readonly token?: string;
      readonly status: number;
      readonly answer?: Json;
    }
  /** Opens a watch under a name. */
  | { readonly watch: string; readonly request: string }
  /**
   * The next event of that watch, bookmarks left out. `orSkip` says why a server that tells no error instead has not
   * come to it yet: the rest is then left out.
   */
  | { readonly event: string; readonly is: Json; readonly orSkip?: string }
  /** What our discovery of a Service on port 9000 must come to; the first such exchange starts it. */
  | { readonly service: string; readonly endpoints: readonly string[] };

export interface Conversation {
  readonly name: string;
  /** Versions of discovery.k8s.io in which it makes sense; absent: all. */
  readonly versions?: readonly string[];
  readonly exchanges: readonly Exchange[];
}

/** All conversations, from conversations.json beside this file. */
export function conversations(): readonly Conversation[] {
  return JSON.parse(readFileSync(new URL('./conversations.json', import.meta.url), 'utf8')) as Conversation[];
}

/** The values of names so far. */
export type Names = Map<string, string>;

/** A text with its names replaced; throws for one that has no value yet. */
export function filled(text: string, names: Names): string {
  return text.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = names.get(name);
    if (value === undefined) throw new Error(`{${name}} has no value yet in: ${text}`);
    return value;
  });
}

/** A value with the names in all its texts replaced. */
export function filledAll(value: Json, names: Names): Json {
  if (typeof value === 'string') return filled(value, names);
  if (Array.isArray(value)) return value.map((one: Json) => filledAll(one, names));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, filledAll(one as Json, names)]));
}

/** Where an answer is not what is wanted, as `path: found, want`; undefined if it is. Names get their values. */
export function difference(found: unknown, wanted: Json, names: Names, path = 'answer'): string | undefined {
  if (Array.isArray(wanted)) {
    const list = Array.isArray(found) ? found : undefined;
    if (list?.length !== wanted.length) return `${path}: ${shown(found)}, want ${shown(wanted)}`;
    return wanted.map((one, at) => difference(list[at], one, names, `${path}[${at}]`)).find((one) => one !== undefined);
  }
  if (typeof wanted === 'object' && wanted !== null) {
    const object = (found ?? {}) as Record<string, unknown>;
    return Object.entries(wanted)
      .map(([key, one]) => difference(object[key], one as Json, names, `${path}.${key}`))
      .find((one) => one !== undefined);
  }
  const [, name] = /^\{(\w+)\}$/.exec(String(wanted)) ?? [];
  if (name !== undefined && !names.has(name) && typeof found === 'string') names.set(name, found);
  const value = typeof wanted === 'string' ? filled(wanted, names) : wanted;
  return found === value ? undefined : `${path}: ${shown(found)}, want ${shown(value)}`;
}

function shown(value: unknown): string {
  return JSON.stringify(value)?.slice(0, 300) ?? 'nothing';
}
