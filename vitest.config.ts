import { join } from 'node:path';
import { defineConfig } from 'vitest/config';
import { patient } from './lab/patience.ts';
import { CountReporter } from './test/count-reporter.ts';

const common = {
  testTimeout: patient(30_000),
  hookTimeout: patient(30_000),
  // A test that never came to assert anything has failed.
  expect: { requireAssertions: true, poll: { timeout: patient(1000) } },
  // Agents and doctors of tests, hundreds of them, start a tenth of a second earlier; those of a bench do not.
  env: { NODE_COMPILE_CACHE: join(import.meta.dirname, 'node_modules/.cache/lab') },
};

/**
 * End to end, and alone: they send as much as the machine carries, measure what it takes, or want all memory that root may lock
 * (lacking-kernel, before Linux 5.11). All others wait more than they work.
 */
const HEAVY = [
  'e2e/{burst,cgroups,discovery-faults,forwarding,ground,health,hitless,memory,neighbours,reachability,safety-net}',
  'e2e/{lacking-kernel,swaps,userspace,worker-pool}',
  'lab/traffic',
].map((name) => `test/${name}.test.ts`);

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
          include: ['test/{lab,e2e}/**/*.test.ts'],
          exclude: HEAVY,
          setupFiles: ['test/closing.ts'],
          maxWorkers: 2,
          sequence: { groupOrder: 1, hooks: 'list' },
        },
      },
      {
        test: {
          ...common,
          name: 'heavy',
          include: HEAVY,
          setupFiles: ['test/closing.ts'],
          sequence: { groupOrder: 2, hooks: 'list' },
          // Tests that send datagrams load both cores by themselves; side by side they would starve each other.
          fileParallelism: false,
        },
      },
    ],
  },
});
