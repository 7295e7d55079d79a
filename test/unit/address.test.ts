import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatAddress, ipBytes, ipText, isWildcard, parseIp } from '../../agent/address.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

describe('an IP address', () => {
  test.each([
    ['10.0.1.10', 4, '10.0.1.10'],
    ['FD00:0:0::1', 6, 'fd00::1'],
    ['::', 6, '::'],
    ['1:2:3:4:5:6:7:8', 6, '1:2:3:4:5:6:7:8'],
    ['::ffff:1.2.3.4', 6, '::ffff:102:304'],
  ])('%s is of family %i and canonically %s', (text, family, ip) => {
    expect(parseIp(text)).toEqual({ family, ip });
  });

  test.each(['', 'localhost', '10.0.1', '10.0.1.256', '010.0.0.1', 'fe80::1%eth0', '[::1]', '1::2::3', ':::'])(
    '%o is none',
    (text) => expect(parseIp(text)).toBeUndefined(),
  );

  test('survives the way to bytes and back', () => {
    const bytes = fc.oneof(
      fc.uint8Array({ minLength: 4, maxLength: 4 }),
      fc.uint8Array({ minLength: 16, maxLength: 16 }),
    );
    fc.assert(
      fc.property(bytes, (raw) => {
        const family = raw.length === 4 ? 4 : 6;
        expect(ipBytes(family, ipText(raw)).subarray(0, raw.length)).toEqual(raw);
      }),
    );
  });

  test('is written with brackets only where there are colons', () => {
    expect(formatAddress({ family: 4, ip: '10.0.0.1', port: 53 })).toBe('10.0.0.1:53');
    expect(formatAddress({ family: 6, ip: 'fd00::1', port: 53 })).toBe('[fd00::1]:53');
  });

  test('nobody else in the agent joins an address and a port by himself', () => {
    const own = ['agent/address.ts', 'agent/config/address-text.ts'];
    const files = globSync('agent/**/*.ts', { cwd: ROOT }).filter((file) => !own.includes(file));
    const joined = files.filter((file) => /(ip|address|host)\}:\$\{/i.test(readFileSync(join(ROOT, file), 'utf8')));
    expect(files.length).toBeGreaterThan(100);
    expect(joined).toEqual([]);
  });

  test('is a wildcard only if all of it is zero', () => {
    expect(isWildcard({ family: 4, ip: '0.0.0.0', port: 1 })).toBe(true);
    expect(isWildcard({ family: 6, ip: '::', port: 1 })).toBe(true);
    expect(isWildcard({ family: 6, ip: '::1', port: 1 })).toBe(false);
  });
});
