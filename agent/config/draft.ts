/** What of a config can be relied on while other parts of it are wrong, so that one run reports every mistake. */
import { type Path, pathText } from './position.ts';
import type { ConfigInput } from './schema.ts';

/** As T, but any part may be missing or have been taken out. */
export type Partly<T> = T extends readonly (infer E)[]
  ? readonly (Partly<E> | undefined)[]
  : T extends object
    ? { readonly [K in keyof T]?: Partly<T[K]> | undefined }
    : T;

export type Draft = Partly<ConfigInput>;
export type DraftListener = Partly<ConfigInput['listeners'][number]>;
export type DraftDownstream = Partly<NonNullable<ConfigInput['listeners'][number]['downstream']>[number]>;

/**
 * The data without the values at `broken`, which must be every path that the schema finds wrong; their keys stay. The
 * keys at `meant`, which stand misspelt, are added without a value, so that no rule misses them.
 */
export function draftOf(value: unknown, broken: readonly Path[], meant: readonly Path[]): Draft {
  // The schema has found nothing else wrong, so what is left is of its input type, with holes.
  if (broken.length === 0 && meant.length === 0) return value as Draft;
  const places = new Set(broken.map(pathText));
  const added = Map.groupBy(meant, (path) => pathText(path.slice(0, -1)));
  const copy = (part: unknown, path: Path): unknown => {
    const place = pathText(path);
    if (places.has(place)) return undefined;
    if (typeof part !== 'object' || part === null) return part;
    if (Array.isArray(part)) return part.map((item, index) => copy(item, [...path, index]));
    const written = Object.entries(part).map(([key, item]) => [key, copy(item, [...path, key])]);
    const holes = (added.get(place) ?? []).map((hole) => [hole.at(-1), undefined]);
    return Object.fromEntries([...holes, ...written]);
  };
  return (copy(value, []) ?? {}) as Draft;
}
