/** What came of a kernel, as a line while the run goes on and as a row of the table at its end. */
import type { Word } from './guest/words.ts';

type Heard<Kind extends Word['kind']> = Extract<Word, { kind: Kind }>;

export class Result {
  readonly kernel: string;
  readonly why: string;
  /** As `uname -r` says; known once it is up. */
  release = '';
  /** Why there is no result. */
  obstacle?: string;
  /** Why there is no such kernel to be had, which is nothing to hold against the project. */
  notToBeHad?: string;
  bootSeconds = 0;
  seconds = 0;
  /** How the test runner ended, if not well. */
  #fault: string | undefined;
  /** Objects that were accepted, as the last word says. */
  #loaded = 0;
  readonly loads: Heard<'load'>[] = [];
  readonly tests: Heard<'test'>[] = [];

  constructor(kernel: string, why: string) {
    this.kernel = kernel;
    this.why = why;
  }

  hear(word: Word): void {
    if (word.kind === 'up') {
      this.release = word.release;
      this.bootSeconds = word.seconds;
    } else if (word.kind === 'load') this.loads.push(word);
    else if (word.kind === 'test') this.tests.push(word);
    else {
      this.seconds = word.seconds;
      this.#fault = word.fault;
      this.#loaded = word.loaded;
    }
  }

  count(state: Heard<'test'>['state']): number {
    return this.tests.filter((test) => test.state === state).length;
  }

  /** Everything that is not as it should be, a line each. */
  failures(testsWanted: boolean): string[] {
    if (this.notToBeHad) return [];
    const refused = this.loads.filter(({ accepted }) => !accepted);
    return [
      ...(this.obstacle ? [this.obstacle] : []),
      ...(this.#loaded === 0 ? ['no object was loaded'] : []),
      ...refused.map(({ object, refusal }) => `${object}: refused: ${refusal}`),
      ...(testsWanted && this.count('passed') === 0 ? ['no test passed'] : []),
      // What had passed until then is not the whole.
      ...(this.#fault && this.count('failed') === 0 ? [`the test runner ended with ${this.#fault}`] : []),
      ...this.tests
        .filter(({ state }) => state === 'failed')
        .map(({ name, error }) => `${name}\n    ${error?.split('\n').join('\n    ')}`),
    ];
  }

  /** `5.10.0-46-cloud-amd64: accepted (clang-14 73561), 300 passed, 0 failed, 2 skipped, 95 s`. */
  line(): string {
    if (this.notToBeHad) return `${this.kernel}: not run: ${this.notToBeHad}`;
    const tests = `${this.count('passed')} passed, ${this.count('failed')} failed, ${this.count('skipped')} skipped`;
    const end = `up in ${this.bootSeconds.toFixed(0)} s, done in ${this.seconds.toFixed(0)} s`;
    return `${this.kernel} (${this.release || 'did not boot'}): ${this.verifier()}; ${tests}; ${this.obstacle ?? end}`;
  }

  /** A row of a Markdown table. */
  row(): string {
    const tests = this.notToBeHad
      ? `not run: ${this.notToBeHad}`
      : this.obstacle
        ? `FAILED: ${this.obstacle}`
        : `${this.count('passed')} / ${this.count('failed')} / ${this.count('skipped')}`;
    return `| ${this.kernel} | ${this.release} | ${this.why} | ${this.verifier()} | ${tests} |`;
  }

  /** The tests that did not run here, each with its reason in its name. */
  skipped(): string[] {
    return this.tests.filter(({ state }) => state === 'skipped').map(({ name }) => name);
  }

  verifier(): string {
    const by = (load: Heard<'load'>) =>
      `${load.object} ${load.accepted ? load.instructions?.toLocaleString('en') : 'REFUSED'}`;
    return this.loads.map(by).join(', ') || 'nothing loaded';
  }
}

export const HEAD = [
  '| kernel | release | stands for | verifier: compiler, instructions | tests passed / failed / skipped |',
  '|---|---|---|---|---|',
];
