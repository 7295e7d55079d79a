/** What tests need of a machine, and how long they wait on a slow one. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isAtLeast, lacking, titled } from '../../lab/kernel.ts';
import { patient, SLOWNESS, until } from '../../lab/patience.ts';

test.each([
  ['5.10', '5.10.0-30-cloud-amd64', true],
  ['5.12', '5.10.0-30-cloud-amd64', false],
  ['5.9', '5.10.0', true],
  ['6.2', '5.19', false],
  ['6.2', '6.18.44', true],
  ['6.11', '7.3-rc1', true],
] as const)('Linux %s is in %s: %s', (wanted, running, is) => {
  expect(isAtLeast(wanted, running)).toBe(is);
});

test('what every supported kernel has is not missing, and a title says what is', () => {
  expect(lacking()).toBeUndefined();
  expect(titled('a test', lacking())).toBe('a test');
  expect(titled('a test', 'needs Linux 6.6: tcx')).toBe('a test (skipped: needs Linux 6.6: tcx)');
});

test('a condition is waited for, and named if it never comes', async () => {
  let looks = 0;
  expect(await until('three looks', () => ++looks === 3 && looks, { every: 1 })).toBe(3);
  const never = until('what never is', () => undefined, { limit: 5, every: 1 });
  await expect(never).rejects.toThrow(`what never is: not within ${5 * SLOWNESS} ms`);
});

test('waits are as much longer as the environment says', () => {
  expect(patient(1000)).toBe(1000 * SLOWNESS);
  const inEnvironment = (slowness: string) => {
    const script = `import { patient } from '${join(import.meta.dirname, '../../lab/patience.ts')}'; console.log(patient(1000));`;
    const env = { ...process.env, NODE_OPTIONS: '', UDP_FANOUT_TEST_SLOWNESS: slowness };
    return execFileSync(process.execPath, ['--input-type=module', '-e', script], {
      env,
      encoding: 'utf8',
      stdio: 'pipe',
    });
  };
  expect(inEnvironment('8')).toBe('8000\n');
  expect(() => inEnvironment('fast')).toThrow('UDP_FANOUT_TEST_SLOWNESS "fast": want a number from 1 to 100');
});
