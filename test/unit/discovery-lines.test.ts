/** Lines come out whole, wherever the network cut them. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LineSplitter } from '../../agent/discovery/lines.ts';

function split(chunks: readonly Buffer[]): string[] {
  const lines: string[] = [];
  const splitter = new LineSplitter((line) => lines.push(line));
  for (const chunk of chunks) splitter.push(chunk);
  return lines;
}

test('any text in any chunks, characters of several bytes cut in two among them', () => {
  const line = fc
    .string({ unit: 'binary', minLength: 1 })
    .filter((text) => !text.includes('\n') && text.isWellFormed());
  const cuts = fc.array(fc.nat(200));
  fc.assert(
    fc.property(fc.array(line), cuts, (lines, places) => {
      const bytes = Buffer.from(lines.map((one) => `${one}\n`).join(''));
      const at = [0, ...places.map((place) => place % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
      const chunks = at.slice(1).map((end, index) => bytes.subarray(at[index], end));
      expect(split(chunks)).toEqual(lines);
    }),
    { numRuns: 100 },
  );
});

test('what has no newline yet is no line', () => {
  expect(split([Buffer.from('{"type":')])).toEqual([]);
});

test('a line without end is refused before it fills the memory', () => {
  const chunk = Buffer.alloc(4 << 20, 'x');
  expect(() => split([chunk, chunk, chunk, chunk, chunk])).toThrow(RangeError);
});
