/** What the set-up takes for installed, and what it says where nothing can be fetched. */
import { afterEach, expect, test, vi } from 'vitest';
import { install, present } from '../../setup/packages.mjs';

afterEach(() => void vi.unstubAllEnvs());

test.each([
  ['a program', 'sh', true],
  ['a program that only root has in its PATH', 'ip', true],
  ['a library', 'libc.so.6', true],
  ['a file', '/proc/self/status', true],
  ['a program that nobody has', 'no-such-program', false],
  ['a library that nobody has', 'libnone.so.9', false],
  ['a file that is not there', '/proc/self/none', false],
])('%s: %s', (_what, wanted, is) => {
  vi.stubEnv('PATH', '/usr/bin:/bin');
  expect(present(wanted)).toBe(is);
});

test('what is there needs no apt', () => {
  vi.stubEnv('PATH', '/usr/bin:/bin');
  expect(install({ sh: 'no-such-package' })).toBeUndefined();
});

test('without apt it says what is missing and what Debian calls it, each package once', () => {
  vi.stubEnv('PATH', '');
  const needed = { 'no-such-program': 'one', 'libnone.so.9': ['other', 'third'], '/proc/self/none': 'one' } as const;
  expect(install(needed)).toBe(
    'no-such-program, libnone.so.9, /proc/self/none missing, and there is no apt-get: install what Debian calls one other',
  );
});
