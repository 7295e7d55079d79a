/** Where datagrams of senders go that are downstreams, or the hosts of some: held against a search through all slots. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Detours, isOwnSource, type Stop, seenFromHere, skipsOf } from '../../agent/datapath/detours.ts';

const ip = (last: number) => `10.0.0.${last}`;
const stop = (at: number, node?: number): Stop => ({
  address: { family: 4, ip: ip(at), port: 9000 },
  ...(node !== undefined && { node: ip(node) }),
});
/** Few addresses, so that hosts are downstreams too, and slots of one lie anywhere; each is on one host. */
const anyStops = fc
  .tuple(
    fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 12 }),
    fc.array(fc.option(fc.integer({ min: 4, max: 9 }), { nil: undefined }), { minLength: 7, maxLength: 7 }),
  )
  .map(([addresses, hosts]) => addresses.map((at) => [at, hosts[at]] as const));

describe('detours', () => {
  test('lead to a slot that will do as long as there is one, and to each of them as often', () => {
    fc.assert(
      fc.property(anyStops, fc.integer({ min: 1, max: 10 }), (drawn, last) => {
        const stops = drawn.map(([at, node]) => stop(at, node));
        const sender = ip(last);
        const good = [...stops.keys()].filter((at) => !isOwnSource(stops[at]!, sender));
        const detours = new Detours(stops);
        const found = Array.from({ length: 60 }, (_, turn) => detours.at(turn, sender));
        expect(found.every((at) => (at === undefined ? good.length === 0 : good.includes(at)))).toBe(true);
        // A host that is a downstream of another host is nobody's case: there it is only right, and not even.
        const hosts = new Set(stops.map(({ node }) => node));
        if (stops.some(({ address, node }) => node !== undefined && hosts.has(address.ip))) return;
        const counts = good.map((at) => found.filter((one) => one === at).length);
        expect(Math.max(...counts, 0) - Math.min(...counts, 60)).toBeLessThanOrEqual(1);
      }),
      { seed: 1, numRuns: 2000 },
    );
  });

  test('ask no more the more slots there are', () => {
    const stops = Array.from({ length: 65_536 }, (_, at) => ({ ...stop(1), node: at === 9 ? ip(3) : ip(2) }));
    const detours = new Detours(stops);
    for (let turn = 0; turn < 100_000; turn++) expect(detours.at(turn, ip(2))).toBe(9);
    expect(detours.at(0, ip(1))).toBeUndefined();
  });
});

describe('skips', () => {
  test('lead past the slots of one host, or where there is no other past those of one address', () => {
    const of = (...stops: Stop[]) => [...skipsOf(stops)];
    expect(of(stop(1, 8), stop(2, 8), stop(3, 9), stop(4, 8))).toEqual([1, 0, 0, 2]);
    expect(of(stop(1, 8), stop(1, 8), stop(2, 8))).toEqual([1, 0, 0]);
    expect(of(stop(8), stop(2, 8), stop(3))).toEqual([1, 0, 0]);
    expect(of(stop(1), stop(1))).toEqual([0, 0]);
    expect(of(stop(1))).toEqual([0]);
    expect(of()).toEqual([]);
  });

  test('lead from a slot of a host to one that is not, if there is one', () => {
    fc.assert(
      fc.property(anyStops, (drawn) => {
        const stops = drawn.map(([at, node]) => stop(at, node ?? at));
        for (const [at, skip] of skipsOf(stops).entries()) {
          const { node } = stops[at]!;
          const next = stops[(at + 1 + skip) % stops.length]!;
          expect(next.node !== node || stops.every((one) => one.node === node)).toBe(true);
        }
      }),
      { seed: 1, numRuns: 1000 },
    );
  });
});

test('a host that is this one is none', () => {
  expect(seenFromHere(stop(1, 8), (one) => one === ip(8)).node).toBeUndefined();
  expect(seenFromHere(stop(1, 8), (one) => one === ip(7)).node).toBe(ip(8));
});
