/** Where a value is: its path in the config, and the line and column of that path in the file. */
import { isMap, isScalar, isSeq, type LineCounter, type Node } from 'yaml';

export type Path = readonly (string | number)[];

/** Lines and columns count from 1; a column is one character (a tab too), whatever its bytes. */
export interface Position {
  readonly line: number;
  readonly col: number;
}

export interface Mistake extends Position {
  readonly message: string;
}

/** Something wrong at a path: `key` points at the word that names it, `value` at what is written there. */
export interface Finding {
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

/** The position of an offset in the text that `lines` has counted. */
export function positionAt(text: string, lines: LineCounter, offset: number): Position {
  const { line, col } = lines.linePos(offset);
  // The counter's columns are UTF-16 units; an editor shows characters.
  return { line, col: [...text.slice(offset - col + 1, offset)].length + 1 };
}

/** A finding with its line and column. */
export function placed(finding: Finding, locate: Locate): Mistake {
  return { ...locate(finding.path, finding.at), message: finding.message };
}

/** Makes the `Locate` of a parsed document. Of a key written twice the first counts, as it does for the value. */
export function locator(text: string, root: Node, lines: LineCounter): Locate {
  return (path, at) => {
    let key: Node | undefined;
    let node: Node | undefined = root;
    for (const step of path) {
      const next = child(node, step);
      key = next.key;
      node = next.node;
    }
    const place = at === 'key' || isEmpty(node) ? (key ?? node) : node;
    return positionAt(text, lines, place?.range?.[0] ?? 0);
  };
}

/** True where nothing is written: `bind:` and no more. */
function isEmpty(node: Node | undefined): boolean {
  return node === undefined || (isScalar(node) && node.value === null && node.source === '');
}

function child(node: Node | undefined, step: string | number): { key?: Node | undefined; node?: Node | undefined } {
  if (isSeq<Node>(node) && typeof step === 'number') return { node: node.items[step] };
  if (!isMap<Node, Node | null>(node)) return {};
  const pair = node.items.find((item) => isScalar(item.key) && item.key.value === step);
  return { key: pair?.key, node: pair?.value ?? undefined };
}
