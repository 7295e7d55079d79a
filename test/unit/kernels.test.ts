/** The lists of test/kernels hold together, and with what is shipped and documented. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { baseOf } from '../image/builder.ts';
import { KERNELS, SMOKE } from '../kernels/catalogue.ts';
import { COMPILERS } from '../kernels/compilers.ts';
import { Listening } from '../kernels/guest/words.ts';

const names = KERNELS.map(({ name }) => name);

test('each kernel has a name of its own, and continuous integration boots some of them', () => {
  expect(new Set(names).size).toBe(names.length);
  expect(SMOKE.filter((name) => !names.includes(name))).toEqual([]);
  expect(SMOKE.length).toBeGreaterThanOrEqual(3);
});

test('the image’s compiler is one of those that are tried', () => {
  const { suite } = baseOf(readFileSync('Dockerfile', 'utf8'));
  expect(COMPILERS.map((compiler) => compiler.suite)).toContain(suite);
});

const [, table = ''] = /<!-- last run -->\n([\s\S]*)\n<!-- end -->/.exec(readFileSync('docs/KERNELS.md', 'utf8')) ?? [];
const rows = table.split('\n').slice(2);

test('the table of the last run has every kernel', () => {
  expect(rows.map((row) => /^\| (\S+) \|/.exec(row)?.[1])).toEqual(names);
});

test.each(rows)('accepted, and tests passed: %s', (row) => {
  expect(row).not.toMatch(/REFUSED|FAILED/);
  expect(row).toMatch(/\| \d+\.\d+\S+ \|.*\| [1-9]\d* \/ 0 \/ \d+ \|$/);
});

test('a word that the kernel wrote into is joined again, or lost alone', () => {
  const words = new Listening();
  const heard = [
    '@@guest {"kind":"end","sec',
    'onds":1,"loaded":4}',
    'noise',
    '@@guest {"ki[  1.0] x',
    '@@guest {"kind":"up"}',
  ];
  expect(heard.map((line) => words.hear(line)?.kind)).toEqual([undefined, 'end', undefined, undefined, 'up']);
});
