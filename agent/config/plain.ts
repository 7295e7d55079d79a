/** YAML nodes as plain data, and the parts of YAML that a config of ours may not use. */
import { isAlias, isMap, isScalar, isSeq, type Node } from 'yaml';
import { type Path, pathText } from './position.ts';

export interface OffsetDiagnostic {
  readonly offset: number;
  readonly message: string;
}

export interface PlainValue {
  readonly value: unknown;
  /** Paths whose value is undefined because it was refused. */
  readonly unread: readonly Path[];
  readonly refusals: readonly OffsetDiagnostic[];
}

/**
 * Reads the nodes under `root`. Anchors, aliases and tags are refused: a config whose values stand elsewhere cannot be
 * reviewed line by line. Of a key written twice the first counts, and the second is refused.
 */
export function plainValue(root: Node, lineOf: (offset: number) => number): PlainValue {
  const refusals: OffsetDiagnostic[] = [];
  const unread: Path[] = [];

  const refuse = (node: Node, message: string) => {
    refusals.push({ offset: node.range?.[0] ?? 0, message });
  };

  const read = (node: Node | null, path: Path): unknown => {
    if (node === null) return null;
    const reason = refusalOf(node);
    if (reason !== undefined) refuse(node, `${pathText(path)}: ${reason}`);
    if (isAlias(node) || node.tag !== undefined) {
      unread.push(path);
      return undefined;
    }
    if (isMap<Node, Node | null>(node)) return readMap(node.items, path);
    if (isSeq<Node>(node)) return node.items.map((item, index) => read(item, [...path, index]));
    return isScalar(node) ? node.value : null;
  };

  const readMap = (pairs: readonly { key: Node; value: Node | null }[], path: Path): unknown => {
    // Without a prototype no key means more than itself, not even `__proto__`.
    const map: Record<string, unknown> = Object.create(null);
    const keys = new Map<string, Node>();
    for (const { key, value } of pairs) {
      const name = isScalar(key) ? String(key.value) : '';
      const place = [...path, name];
      const reason = refusalOf(key);
      if (reason !== undefined) refuse(key, `${pathText(place)}: ${reason}`);
      const first = keys.get(name);
      if (first === undefined) {
        keys.set(name, key);
        map[name] = read(value, place);
      } else {
        refuse(key, `${pathText(place)}: written twice, first in line ${lineOf(first.range?.[0] ?? 0)}, want it once`);
      }
    }
    return map;
  };

  return { value: read(root, []), unread, refusals };
}

function refusalOf(node: Node): string | undefined {
  if (isAlias(node))
    return `"*${node.source}" is a YAML alias, want the value itself (a text that starts with "*" needs quotes)`;
  if ('anchor' in node && node.anchor !== undefined) return `"&${node.anchor}" is a YAML anchor, want the value alone`;
  if (node.tag !== undefined)
    return `${node.tag.replace('tag:yaml.org,2002:', '!!')} is a YAML tag, want the value alone`;
  return undefined;
}
