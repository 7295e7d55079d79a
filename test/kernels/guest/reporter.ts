/** Tells the host of each test as it ends. */
import type { Reporter, TestCase, TestModule } from 'vitest/node';
import { say } from './words.ts';

export default class GuestReporter implements Reporter {
  onTestCaseResult(test: TestCase): void {
    const { state, errors } = test.result();
    if (state === 'pending') return;
    const error = errors
      ?.map(({ message, stack }) => `${message}\n${stack?.split('\n').slice(0, 6).join('\n')}`)
      .join('\n');
    say({ kind: 'test', name: test.fullName, state, ...(error && { error }) });
  }

  /** A file or a hook that fails leaves tests which never ran: each is a failure by name. */
  onTestRunEnd(modules: readonly TestModule[], errors: readonly { readonly message: string }[]): void {
    for (const module of modules) {
      const suites = [...module.children.allSuites()].flatMap((suite) => suite.errors());
      for (const { message } of [...module.errors(), ...suites])
        say({ kind: 'test', name: module.relativeModuleId, state: 'failed', error: message });
    }
    for (const { message } of errors)
      say({ kind: 'test', name: 'outside of any test', state: 'failed', error: message });
  }
}
