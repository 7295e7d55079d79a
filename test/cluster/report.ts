/** A line for each check as it ends, and the count. */

export class Report {
  readonly #counts = { passed: 0, failed: 0, skipped: 0 };
  readonly #started = performance.now();

  /** Runs a check; what it throws is why it fails. */
  async check(what: string, holds: () => unknown): Promise<void> {
    try {
      await holds();
      this.pass(what);
    } catch (error) {
      this.fail(what, (error as Error).message);
    }
  }

  /** Does a part of the run; what ends it early counts as one failure, and the next part has its turn. */
  async part(name: string, work: () => Promise<void>): Promise<void> {
    await work().catch((error: Error) => this.fail(`${name}: runs to its end`, error.message));
  }

  pass(what: string): void {
    this.#counts.passed++;
    say(`ok      ${what}`);
  }

  fail(what: string, why: string): void {
    this.#counts.failed++;
    say(`FAILED  ${what}\n${indented(why)}`);
  }

  skip(what: string, why: string): void {
    this.#counts.skipped++;
    say(`skipped ${what}: ${why}`);
  }

  /** Prints the count and returns the exit code. */
  end(): number {
    const { passed, failed, skipped } = this.#counts;
    say(`${((performance.now() - this.#started) / 1000).toFixed(0)} s`);
    say(`${passed} passed, ${failed} failed, ${skipped} skipped`);
    return failed === 0 ? 0 : 1;
  }
}

export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function indented(text: string): string {
  return text
    .trim()
    .split('\n')
    .slice(-40)
    .map((line) => `        ${line}`)
    .join('\n');
}
