/** The last line of a test run, for people and machines that want only that: `505 passed, 0 failed, 1 skipped`. */
import type { Reporter, TestModule } from 'vitest/node';

export class CountReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const states = modules.flatMap((module) => [...module.children.allTests()].map((test) => test.result().state));
    // A file that does not even load has no tests to fail.
    const broken = modules.filter(
      (module) => module.state() === 'failed' && [...module.children.allTests()].length === 0,
    );
    const count = (state: string) => states.filter((one) => one === state).length;
    const failed = count('failed') + count('pending') + broken.length + errors.length;
    process.once('exit', () =>
      process.stdout.write(`${count('passed')} passed, ${failed} failed, ${count('skipped')} skipped\n`),
    );
  }
}
