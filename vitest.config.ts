import { defineConfig } from 'vitest/config';
import { patient } from './lab/patience.ts';
import { CountReporter } from './test/count-reporter.ts';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    reporters: ['default', new CountReporter()],
    // Tests that build network namespaces load both cores by themselves; side by side they would starve each other.
    fileParallelism: false,
    testTimeout: patient(30_000),
    hookTimeout: patient(30_000),
    // A test that never came to assert anything has failed.
    expect: { requireAssertions: true, poll: { timeout: patient(1000) } },
  },
});
