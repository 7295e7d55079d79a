/** From the schema's issues to findings that say what was found, what is wanted and where. */
import type * as z from 'zod';
import { isSameWord, nearest } from './nearest.ts';
import { type Path, type PathDiagnostic, pathText, quote } from './position.ts';
import { allowedKeys } from './schema.ts';

type Issue = z.core.$ZodIssue;

/** One finding for each wrong value and unknown key. `value` is the data that the issues are about. */
export function explain(issues: readonly Issue[], value: unknown): readonly PathDiagnostic[] {
  const seen = new Set<string>();
  return issues.flatMap((issue) => {
    if (issue.code === 'unrecognized_keys') return issue.keys.map((key) => unknownKey(pathOf(issue), key));
    // A value that breaks two rules is one mistake: the first rule's message says all that is wanted.
    const place = pathText(pathOf(issue));
    if (seen.has(place)) return [];
    seen.add(place);
    return [wrongValue(issue, valueAt(value, issue.path))];
  });
}

/** The path of an issue; YAML has no symbols, so its steps are keys and indices. */
export function pathOf(issue: Issue): Path {
  return issue.path.filter((step) => typeof step !== 'symbol');
}

/** The keys that are missing because they stand misspelt: nothing else is to be said about them. */
export function misspelt(issues: readonly Issue[], value: unknown): readonly { meant: Path; written: Path }[] {
  return issues.flatMap((issue) => {
    if (issue.code !== 'unrecognized_keys') return [];
    const parent = pathOf(issue);
    return issue.keys.flatMap((key) => {
      const meant = nearest(key, allowedKeys(parent));
      if (meant === undefined || hasAt(value, [...parent, meant])) return [];
      return [{ meant: [...parent, meant], written: [...parent, key] }];
    });
  });
}

function unknownKey(parent: Path, key: string): PathDiagnostic {
  const path = [...parent, key];
  return { path, at: 'key', message: `${pathText(path)}: unknown key, ${hintFor(parent, key)}` };
}

function hintFor(parent: Path, key: string): string {
  const known = allowedKeys(parent);
  const meant = nearest(key, known);
  if (meant !== undefined) return `did you mean ${meant}?`;
  // The tuning keys of a listener stand one level deeper than most expect.
  for (const section of known) {
    const inner = [...allowedKeys([...parent, section]), ...allowedKeys([...parent, section, 0])];
    const deeper = inner.find((name) => isSameWord(name, key));
    if (deeper !== undefined) return `did you mean ${deeper} under ${section}?`;
  }
  return `want one of ${known.join(', ')}`;
}

function wrongValue(issue: Issue, value: unknown): PathDiagnostic {
  const path = pathOf(issue);
  const place = pathText(path);
  const finding = (message: string): PathDiagnostic => ({ path, at: 'value', message });
  if (value === undefined) {
    const parent = path.slice(0, -1);
    const start = parent.length === 0 ? '' : `${pathText(parent)}: `;
    return { path: parent, at: 'key', message: `${start}${path.at(-1)} is missing, ${issue.message}` };
  }
  if (value === null) return finding(`${place}: has no value, ${issue.message}`);
  if (Array.isArray(value)) return finding(`${place}: found a list, ${issue.message}`);
  if (typeof value === 'object') return finding(`${place}: found a map, ${issue.message}`);
  if (typeof value !== 'string') return finding(`${place} ${String(value)}: ${issue.message}`);
  if (issue.code !== 'invalid_value') return finding(`${place} ${quote(value)}: ${issue.message}`);
  const meant = nearest(value, issue.values.map(String));
  const hint = meant === undefined ? '' : `; did you mean ${meant}?`;
  return finding(`${place} ${quote(value)}: unknown ${path.at(-1)}, ${issue.message}${hint}`);
}

function hasAt(value: unknown, path: Path): boolean {
  const parent = valueAt(value, path.slice(0, -1));
  return typeof parent === 'object' && parent !== null && (path.at(-1) ?? '') in parent;
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((inner, step) => {
    return typeof inner === 'object' && inner !== null ? (inner as Record<PropertyKey, unknown>)[step] : undefined;
  }, value);
}
