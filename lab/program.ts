/** A child program of the lab: a job as its argument, JSON lines in and out, ended by closing its input. */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Namespace } from './namespace.ts';

/** Where Node keeps what it has made of sources: a program of the lab starts in a third of the time, and tests start hundreds. */
const COMPILED = join(import.meta.dirname, '../node_modules/.cache/lab');

export class Program<Command, Answer> {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  readonly #name: string;
  #errors = '';

  /**
   * Starts a file of the lab that works in a namespace, perhaps in several: it opens its sockets there and lives outside,
   * so that it survives when one of them is taken away.
   */
  constructor(namespace: Namespace, file: string, job: unknown) {
    this.#name = `${file} in ${namespace.role}`;
    // What the caller was started with, a test runner's loader for one, is not for the program.
    const env = { ...process.env, NODE_OPTIONS: '', NODE_COMPILE_CACHE: COMPILED };
    const args = [join(import.meta.dirname, file), JSON.stringify(job)];
    this.#child = namespace.track(spawn(process.execPath, args, { env, stdio: 'pipe' }));
    this.#child.stderr!.on('data', (text) => (this.#errors += text));
    this.#answers = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
    // It may end before it has read a command; the missing answer tells.
    this.#child.stdin!.on('error', () => {});
  }

  /** The program's next line; throws with its standard error if it ended instead. */
  async answer(): Promise<Answer> {
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`${this.#name} ended: ${this.#errors.trim() || 'without a word'}`);
    return JSON.parse(value) as Answer;
  }

  /** Sends a command and waits for its answer. */
  ask(command: Command): Promise<Answer> {
    this.#child.stdin!.write(`${JSON.stringify(command)}\n`);
    return this.answer();
  }

  /** Ends its input, and thereby the program. */
  end(): void {
    this.#child.stdin!.end();
  }
}
