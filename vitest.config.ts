import { defineConfig } from 'vitest/config';
import { patient } from './lab/patience.ts';
import { CountReporter } from './test/count-reporter.ts';

const common = {
  testTimeout: patient(30_000),
  hookTimeout: patient(30_000),
  // A test that never came to assert anything has failed.
  expect: { requireAssertions: true, poll: { timeout: patient(1000) } },
};

export default defineConfig({
  test: {
    reporters: ['default', new CountReporter()],
    projects: [
      {
        test: {
          ...common,
          name: 'parts',
          include: ['test/{unit,packet,deploy}/**/*.test.ts'],
          maxWorkers: 2,
          isolate: false,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          ...common,
          name: 'whole',
          include: ['test/{lab,e2e}/**/*.test.ts'],
          setupFiles: ['test/closing.ts'],
          sequence: { groupOrder: 1, hooks: 'list' },
          // Tests that send datagrams load both cores by themselves; side by side they would starve each other.
          fileParallelism: false,
        },
      },
    ],
  },
});
