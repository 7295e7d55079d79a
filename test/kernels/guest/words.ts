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
  /** `loaded`: objects that were accepted; `fault`: how the test runner ended, if not well. */
  | { readonly kind: 'end'; readonly seconds: number; readonly loaded: number; readonly fault?: string };

const MARK = '@@guest ';

export function say(word: Word): void {
  process.stdout.write(`\n${MARK}${JSON.stringify(word)}\n`);
}

/**
 * Picks the words out of the console's lines. The kernel may write into the middle of one: what follows is joined to it,
 * and if that does not mend it the word is lost. The last one says whether any was a failure.
 */
export class Listening {
  #begun = '';

  hear(line: string): Word | undefined {
    if (line.startsWith(MARK)) this.#begun = line.slice(MARK.length);
    else if (this.#begun !== '') this.#begun += line;
    else return undefined;
    try {
      const word = JSON.parse(this.#begun) as Word;
      this.#begun = '';
      return word;
    } catch {
      return undefined;
    }
  }
}
