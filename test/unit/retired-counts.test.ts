/** What went to downstreams that are gone: by name as long as they are few, and never lost. */
import { expect, test } from 'vitest';
import { RetiredCounts } from '../../agent/datapath/retired-counts.ts';

const sum = (...maps: ReadonlyMap<string, number>[]) =>
  maps.flatMap((map) => [...map.values()]).reduce((total, count) => total + count, 0);

test('a downstream that leaves keeps its count, and goes on from there when it is back', () => {
  const retired = new RetiredCounts();
  retired.add(
    new Map([
      ['a', 3],
      ['b', 4],
      ['c', 0],
    ]),
    (key) => key === 'a',
  );
  expect(retired.with(new Map([['a', 1]]))).toEqual({ downstreams: new Map([['a', 4]]), gone: new Map([['b', 4]]) });
  expect(retired.with(new Map([['b', 2]]))).toEqual({ downstreams: new Map([['b', 6]]), gone: new Map([['a', 3]]) });
});

test('of thousands that have left, the oldest are one, and the sum stays what was forwarded', () => {
  const retired = new RetiredCounts();
  for (let at = 0; at < 5000; at++)
    retired.add(
      new Map([
        ['live', 1],
        [`pod${at}`, 2],
      ]),
      (key) => key === 'live',
    );
  const { downstreams, gone } = retired.with(new Map([['live', 7]]));
  expect(downstreams).toEqual(new Map([['live', 5007]]));
  expect(gone.size).toBeLessThanOrEqual(1025);
  expect(gone.get('pod4999')).toBe(2);
  expect(gone.get('other')).toBeGreaterThan(7000);
  expect(sum(downstreams, gone)).toBe(7 + 5000 + 2 * 5000);
});
