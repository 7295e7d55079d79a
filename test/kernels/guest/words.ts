/** What the machine says to its host: JSON behind a mark on lines of the console, since the kernel writes there too. */
export type Word =
  | { readonly kind: 'up'; readonly release: string; readonly seconds: number }
  | {
      readonly kind: 'load';
      readonly object: string;
      readonly accepted: boolean;
      readonly instructions?: number;
      readonly refusal?: string;
    }
  | {
      readonly kind: 'test';
      readonly name: string;
      readonly state: 'passed' | 'failed' | 'skipped';
      readonly error?: string;
    }
  /** `fault`: how the test runner ended, if not well. */
  | { readonly kind: 'end'; readonly seconds: number; readonly fault?: string };

const MARK = '@@guest ';

export function say(word: Word): void {
  process.stdout.write(`\n${MARK}${JSON.stringify(word)}\n`);
}

/** The word on a line of the console; undefined if there is none. Throws if the kernel has written into it. */
export function heard(line: string): Word | undefined {
  if (!line.startsWith(MARK)) return undefined;
  try {
    return JSON.parse(line.slice(MARK.length)) as Word;
  } catch (cause) {
    throw new Error(`a line of the guest is garbled: ${line}`, { cause });
  }
}
