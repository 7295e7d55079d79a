/** From YAML text to plain data: what is written, where, and what this config does not take of YAML. */
import { isScalar, Lexer, type ParsedNode, parseDocument, type YAMLError } from 'yaml';
import { plainValue } from './plain.ts';
import { type Diagnostic, type Locate, locator, type Path, type Position, positionsIn } from './position.ts';
import { WANT_LESS } from './text.ts';

/**
 * Most of what the lexer tells apart: words, marks, spaces, ends of lines. It is these that take memory and time, up to two
 * kilobytes each where all are mistakes. A downstream has 9 to 22, so that a file of 1 MiB has up to 330,000; a list of
 * single characters would have 1.5 million.
 */
const MAX_TOKENS = 400_000;

export interface Document {
  /** Plain data; a value that could not be read is undefined under its key. The whole is undefined for an unusable file. */
  readonly value: unknown;
  /** Paths whose value could not be read and has been reported. */
  readonly unread: readonly Path[];
  readonly locate: Locate;
  readonly diagnostics: readonly Diagnostic[];
}

/** Reads one YAML 1.2 document (core schema), without anchors, aliases and tags. Never throws for what the text says. */
export function readDocument(fileText: string): Document {
  const text = fileText.startsWith('\uFEFF') ? fileText.slice(1) : fileText;
  const positionOf = positionsIn(text);
  if (hasMoreTokens(text, MAX_TOKENS)) return unusable([{ line: 1, col: 1, message: TOO_LONG }]);
  const document = parseDocument(text, {
    schema: 'core',
    version: '1.2',
    merge: false,
    resolveKnownTags: false,
    stringKeys: true,
    // Ours names the first one's line, and takes linear time.
    uniqueKeys: false,
    prettyErrors: false,
    // The only quiet level that still reports a second document.
    logLevel: 'error',
  });
  // Every tag is refused with the plain values, known or not.
  const errors = [...document.errors, ...document.warnings.filter((warning) => warning.code !== 'TAG_RESOLVE_FAILED')];
  const diagnostics = firstOfEachLine(
    withoutAftermath(errors).map((error) => syntaxDiagnostic(text, positionOf, error)),
  );
  // What stands after a syntax error is guesswork, and so would be its mistakes.
  if (errors.some((error) => error.code !== 'MULTIPLE_DOCS')) return unusable(diagnostics);
  const root = document.contents;
  if (root === null || isBlank(root)) return unusable([{ line: 1, col: 1, message: EMPTY }, ...diagnostics]);
  const { value, unread, refusals } = plainValue(root, (offset) => positionOf(offset).line);
  const refused = refusals.map(({ offset, message }) => ({ ...positionOf(offset), message }));
  return { value, unread, locate: locator(root, positionOf), diagnostics: [...diagnostics, ...refused] };
}

/** The lexer keeps none of them. */
function hasMoreTokens(text: string, most: number): boolean {
  let count = 0;
  for (const _ of new Lexer().lex(text)) if (++count > most) return true;
  return false;
}

const TOO_LONG = `more than ${MAX_TOKENS} words, marks and spaces, ${WANT_LESS}`;

const EMPTY = 'the file is empty, want YAML with at least "listeners:"';

function isBlank(root: ParsedNode): boolean {
  return isScalar(root) && root.value === null && root.source === '';
}

function unusable(diagnostics: readonly Diagnostic[]): Document {
  return { value: undefined, unread: [], locate: () => ({ line: 1, col: 1 }), diagnostics };
}

// After an error that ends the document the parser stumbles over every token that follows.
function withoutAftermath(errors: readonly YAMLError[]): readonly YAMLError[] {
  return errors.filter((error, index) => index === 0 || !error.message.includes(' in YAML stream'));
}

// One slip makes the parser stumble several times on its line; what follows the first says nothing new.
function firstOfEachLine(diagnostics: readonly Diagnostic[]): readonly Diagnostic[] {
  const seen = new Set<number>();
  return diagnostics.filter(({ line }) => !seen.has(line) && seen.add(line));
}

function syntaxDiagnostic(text: string, positionOf: (offset: number) => Position, error: YAMLError): Diagnostic {
  const address = unquotedAddress(text, error.pos[0]);
  if (address === undefined) return { ...positionOf(error.pos[0]), message: syntaxMessage(error) };
  const message = `not valid YAML: a value that starts with "[" is a list, want it in quotes: "${address.text}"`;
  return { ...positionOf(address.offset), message };
}

function syntaxMessage(error: YAMLError): string {
  switch (error.code) {
    case 'TAB_AS_INDENT':
      return 'not valid YAML: this line is indented with a tab, want spaces';
    case 'MULTIPLE_DOCS':
      return 'a second YAML document starts here, want one document in the file';
    case 'NON_STRING_KEY':
      return 'this key is a list, a map or an alias, want a plain word';
    case 'RESOURCE_EXHAUSTION':
      return 'nested too deeply, want the few levels that the keys need';
    default:
      return `not valid YAML: ${error.message.replace(/\s+/g, ' ')}`;
  }
}

const ADDRESS_LENGTH = 64;

/** The `[::]:5514` without quotes at whose port the parser stumbled, if that is what happened. */
function unquotedAddress(text: string, offset: number): { text: string; offset: number } | undefined {
  const start = Math.max(0, offset - ADDRESS_LENGTH);
  const open = start + text.slice(start, offset + 1).lastIndexOf('[');
  if (open < start) return undefined;
  const found = /^\[[0-9a-fA-F:.]*\]:\d+/.exec(text.slice(open, open + ADDRESS_LENGTH))?.[0];
  return found !== undefined && open + found.length > offset ? { text: found, offset: open } : undefined;
}
