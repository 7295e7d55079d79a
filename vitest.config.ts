import { defineConfig } from 'vitest/config';
import { CountReporter } from './test/count.ts';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    reporters: ['default', new CountReporter()],
    // Tests that build network namespaces load both cores by themselves; side by side they would starve each other.
    fileParallelism: false,
    testTimeout: 30_000,
    hookTimeout: 30_000,
  },
});
