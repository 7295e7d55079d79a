/** Where a value is: its path in the config, and the line and column of that path in the file. */
import { isMap, isScalar, isSeq, LineCounter, type Node, type YAMLMap } from 'yaml';

export type Path = readonly (string | number)[];

/** Lines and columns count from 1; a column is one character (a tab too), whatever its bytes. */
export interface Position {
  readonly line: number;
  readonly col: number;
}

export interface Diagnostic extends Position {
  readonly message: string;
}

/** Something wrong at a path: `key` points at the word that names it, `value` at what is written there. */
export interface PathDiagnostic {
  readonly path: Path;
  readonly at: 'key' | 'value';
  readonly message: string;
}

/** Turns a path into its place in the file. */
export type Locate = (path: Path, at: 'key' | 'value') => Position;

/** A path as people write it: `listeners[0].settings.workers`; the whole file is `config`. */
export function pathText(path: Path): string {
  if (path.length === 0) return 'config';
  return path.reduce<string>((text, step) => {
    if (typeof step === 'number') return `${text}[${step}]`;
    if (!/^[\w-]+$/.test(step)) return `${text}[${quote(step)}]`;
    return text === '' ? step : `${text}.${step}`;
  }, '');
}

/** Text in double quotes on one line, cut to a length that a terminal shows. */
export function quote(text: string): string {
  const characters = [...text.slice(0, 200)];
  const cut = characters.length > 80 || text.length > 200 ? `${characters.slice(0, 77).join('')}...` : text;
  // JSON leaves these as they are, but a terminal takes them for line breaks, commands or a change of direction.
  return JSON.stringify(cut).replace(/[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, (character) => {
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}

/** Tells the position of each offset in the text. */
export function positionsIn(text: string): (offset: number) => Position {
  // Counted here, as the parser's own count misses the lines of a scalar that it meets after an error.
  const lines = new LineCounter();
  for (let start = 0; start >= 0; start = text.indexOf('\n', start) + 1 || -1) lines.addNewLine(start);
  // The counter's columns are UTF-16 units, an editor's are characters; most texts need not be looked at twice.
  const hasPairs = /[\ud800-\udbff]/.test(text);
  return (offset) => {
    const { line, col } = lines.linePos(offset);
    return { line, col: hasPairs ? [...text.slice(offset - col + 1, offset)].length + 1 : col };
  };
}

/** A finding with its line and column. */
export function placed(finding: PathDiagnostic, locate: Locate): Diagnostic {
  return { ...locate(finding.path, finding.at), message: finding.message };
}

/** Makes the `Locate` of a parsed document. Of a key written twice the first counts, as it does for the value. */
export function locator(root: Node, positionOf: (offset: number) => Position): Locate {
  const pairsOf = pairsByKey();
  return (path, at) => {
    let key: Node | undefined;
    let node: Node | undefined = root;
    for (const step of path) {
      const pair: KeyAndValue | undefined = isMap<Node, Node | null>(node) ? pairsOf(node).get(step) : undefined;
      key = pair?.key;
      node = isSeq<Node>(node) && typeof step === 'number' ? node.items[step] : (pair?.value ?? undefined);
    }
    const place = at === 'key' || isUnwritten(node) ? (key ?? node) : node;
    return positionOf(place?.range?.[0] ?? 0);
  };
}

interface KeyAndValue {
  readonly key: Node;
  readonly value: Node | null;
}
type Pairs = ReadonlyMap<unknown, KeyAndValue>;

// Kept for each map that is asked about, so that many mistakes in a long map take linear time.
function pairsByKey(): (map: YAMLMap<Node, Node | null>) => Pairs {
  const known = new WeakMap<object, Pairs>();
  return (map) => {
    const found = known.get(map);
    if (found !== undefined) return found;
    // Reversed, as the last one set stays and the first one written counts.
    const entries = map.items
      .toReversed()
      .map((pair) => [isScalar(pair.key) ? pair.key.value : undefined, pair] as const);
    const pairs: Pairs = new Map(entries);
    known.set(map, pairs);
    return pairs;
  };
}

/** True where nothing is written: `bind:` and no more. */
function isUnwritten(node: Node | undefined): boolean {
  return node === undefined || (isScalar(node) && node.value === null && node.source === '');
}
