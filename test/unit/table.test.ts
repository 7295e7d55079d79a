import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Family } from '../../agent/address.ts';
import { type Downstream, LIMITS } from '../../agent/model.ts';
import { buildTable } from '../../agent/table.ts';

const downstream = (host: number, weight = 1, family: Family = 4): Downstream => ({
  address: { family, ip: family === 4 ? `10.0.${host >> 8}.${host & 255}` : `fd00::${host.toString(16)}`, port: 9000 },
  weight,
});
const order = (table: ReturnType<typeof buildTable>) => table.slots.map(({ address }) => address.ip.split('.').at(-1));

describe('a slot table', () => {
  test('has each downstream once, in order, where all weigh the same', () => {
    expect(order(buildTable(4, [downstream(1, 7), downstream(2, 7), downstream(3, 7)]))).toEqual(['1', '2', '3']);
  });

  test('of nothing is empty', () => {
    expect(buildTable(4, []).slots).toEqual([]);
  });

  test('takes only its own family', () => {
    const mixed = [downstream(1), downstream(2, 1, 6)];
    expect(buildTable(6, mixed).slots.map(({ address }) => address.ip)).toEqual(['fd00::2']);
  });

  test('keeps downstreams of one node apart from each other', () => {
    const on = (node: string | undefined, ...hosts: number[]) =>
      hosts.map((host) => ({ ...downstream(host), ...(node !== undefined && { node }) }));
    expect(order(buildTable(4, [...on('a', 1, 2, 3), ...on('b', 4, 5, 6)]))).toEqual(['1', '4', '2', '5', '3', '6']);
    expect(order(buildTable(4, [...on('a', 1, 2, 3, 4), ...on('b', 5), ...on('c', 6)]))).toEqual([
      '1',
      '2',
      '5',
      '6',
      '3',
      '4',
    ]);
    expect(order(buildTable(4, on(undefined, 3, 1, 2)))).toEqual(['3', '1', '2']);
  });

  test('spreads a heavy downstream over the round instead of bunching it', () => {
    expect(order(buildTable(4, [downstream(1, 4), downstream(2, 2), downstream(3, 2)]))).toEqual(['1', '2', '3', '1']);
  });

  test('gives every downstream exactly its share', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: LIMITS.weight }), { minLength: 1, maxLength: 40 }), (weights) => {
        const { slots } = buildTable(
          4,
          weights.map((weight, host) => downstream(host, weight)),
        );
        const counts = weights.map(
          (_, host) => slots.filter((slot) => slot.address.ip === downstream(host).address.ip).length,
        );
        // Shares compared crosswise, since a third is no number here.
        expect(counts.map((count) => count * weights[0]!)).toEqual(weights.map((weight) => weight * counts[0]!));
      }),
    );
  });

  test('refuses what does not fit instead of cutting it', () => {
    const many = Array.from({ length: LIMITS.downstreamsPerListener + 1 }, (_, host) => downstream(host));
    expect(() => buildTable(4, many)).toThrow('4097 downstreams, at most 4096 are possible');
    const heavy = Array.from({ length: 600 }, (_, host) => downstream(host, host === 0 ? 255 : 256));
    expect(() => buildTable(4, heavy)).toThrow(/slots, at most 65536 are possible/);
  });
});
