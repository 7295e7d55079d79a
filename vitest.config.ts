import { defineConfig } from 'vitest/config';
import { patient } from './lab/patience.ts';
import { CountReporter } from './test/count-reporter.ts';

const common = {
  testTimeout: patient(30_000),
  hookTimeout: patient(30_000),
  // A test that never came to assert anything has failed.
  expect: { requireAssertions: true, poll: { timeout: patient(1000) } },
};

/** End to end, and mostly waiting: for agents that start, and for what they say. */
const LIGHT = ['doctor', 'discovery-faults', 'lacking-kernel', 'netlink', 'output', 'pod', 'refusal'].map(
  (name) => `test/e2e/${name}.test.ts`,
);

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
          name: 'light',
          include: LIGHT,
          setupFiles: ['test/closing.ts'],
          maxWorkers: 2,
          sequence: { groupOrder: 1, hooks: 'list' },
        },
      },
      {
        test: {
          ...common,
          name: 'whole',
          include: ['test/{lab,e2e}/**/*.test.ts'],
          exclude: LIGHT,
          setupFiles: ['test/closing.ts'],
          sequence: { groupOrder: 2, hooks: 'list' },
          // Tests that send datagrams load both cores by themselves; side by side they would starve each other.
          fileParallelism: false,
        },
      },
    ],
  },
});
