/** The gathering plan: whatever comes, each datagram leaves once, in its order, in runs that the kernel takes. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GsoPlan, MAX_SEGMENTS, MAX_SEND_BYTES } from '../../agent/datapath/userspace/forward/gso-plan.ts';
import { SendQueues } from '../../agent/datapath/userspace/forward/send-queues.ts';
import { buildSnapshot, countsOf, SlotWalk, sameSnapshot } from '../../agent/datapath/userspace/snapshot.ts';
import { buildTable } from '../../agent/table.ts';
import { anEndpoint } from '../fake/words.ts';

interface Datagram {
  readonly size: number;
  readonly source: number;
  readonly downstream: number;
}

/** The runs of a plan, each as its datagrams' numbers. */
function runsOf(plan: GsoPlan): number[][] {
  return Array.from({ length: plan.runs }, (_, run) => {
    const datagrams: number[] = [];
    for (let i = plan.first[run]!; i !== -1; i = plan.next[i]!) datagrams.push(i);
    return datagrams;
  });
}

function planned(plan: GsoPlan, datagrams: readonly Datagram[], limit = MAX_SEND_BYTES): number[][] {
  plan.begin();
  for (const [i, { size, source, downstream }] of datagrams.entries()) plan.add(i, size, source, downstream, limit);
  return runsOf(plan);
}

const sizes = fc.oneof(fc.constantFrom(0, 1, 199, 200, 1472, 9000, 65507), fc.integer({ min: 0, max: 400 }));
const datagrams = fc.array(fc.record({ size: sizes, source: fc.nat({ max: 5 }), downstream: fc.nat({ max: 3 }) }), {
  maxLength: 300,
});

describe('the gathering plan', () => {
  test('holds each datagram once, in runs that UDP_SEGMENT takes, in the order of each source and downstream', () => {
    const plan = new GsoPlan(300);
    fc.assert(
      fc.property(datagrams, fc.constantFrom(0, 200, 1472, MAX_SEND_BYTES), (all, limit) => {
        const runs = planned(plan, all, limit);
        expect(runs.flat().sort((a, b) => a - b)).toEqual(all.map((_, i) => i));
        for (const [at, run] of runs.entries()) {
          const [first, ...rest] = run.map((i) => all[i]!);
          expect(rest.every((one) => one.source === first!.source && one.downstream === first!.downstream)).toBe(true);
          expect(rest.slice(0, -1).every(({ size }) => size === first!.size)).toBe(true);
          const bytes = run.reduce((sum, i) => sum + all[i]!.size, 0);
          expect([plan.count[at], plan.segment[at], plan.bytes[at]]).toEqual([run.length, first!.size, bytes]);
          if (run.length === 1) continue;
          expect(rest.at(-1)!.size).toBeGreaterThan(0);
          expect(rest.at(-1)!.size).toBeLessThanOrEqual(first!.size);
          expect(first!.size).toBeLessThanOrEqual(limit);
          expect(run.length).toBeLessThanOrEqual(MAX_SEGMENTS);
          expect(bytes).toBeLessThanOrEqual(MAX_SEND_BYTES);
        }
        const pair = ({ source, downstream }: Datagram) => `${source} ${downstream}`;
        for (const key of new Set(all.map(pair))) {
          const order = runs.flat().filter((i) => pair(all[i]!) === key);
          expect(order).toEqual([...order].sort((a, b) => a - b));
        }
      }),
    );
  });

  test('is as small as it can be where one sender sends one size', () => {
    const three = Array.from({ length: 64 }, (_, i) => ({ size: 200, source: 0, downstream: i % 3 }));
    expect(planned(new GsoPlan(64), three).map((run) => run.length)).toEqual([22, 21, 21]);
  });

  test('lets a shorter datagram end a run, and no datagram join a run behind it', () => {
    const of = (...list: number[]) => list.map((size) => ({ size, source: 0, downstream: 0 }));
    expect(planned(new GsoPlan(8), of(200, 200, 80, 200, 300, 300))).toEqual([[0, 1, 2], [3], [4, 5]]);
    expect(planned(new GsoPlan(8), of(0, 0, 10, 0, 10))).toEqual([[0], [1], [2], [3], [4]]);
  });

  test('starts anew with every batch, for longer than its stamps last', () => {
    const plan = new GsoPlan(2);
    for (let batch = 0; batch < 100_000; batch++) plan.begin();
    const pair = [1, 1].map((size) => ({ size, source: 0, downstream: 0 }));
    expect(planned(plan, pair)).toEqual([[0, 1]]);
    expect(planned(plan, pair.slice(1))).toEqual([[0]]);
  });
});

describe('the walk through the slots', () => {
  const snapshot = (...ips: string[]) =>
    buildSnapshot(
      1,
      [
        buildTable(
          4,
          ips.map((ip) => anEndpoint(ip)),
        ),
      ],
      [],
      2,
    );

  test('is one exact round robin over all forwarders, whatever their batches are', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), fc.array(fc.integer({ min: 1, max: 64 })), (pods, batches) => {
        const one = snapshot(...Array.from({ length: pods }, (_, i) => `10.0.0.${i + 1}`));
        const walks = [new SlotWalk(one, 4), new SlotWalk(one, 4)];
        const walked = batches.flatMap((count, turn) => {
          const first = walks[turn % 2]!.take(count);
          return Array.from({ length: count }, (_, i) => (first + i) % pods);
        });
        expect(walked).toEqual(walked.map((_, i) => i % pods));
      }),
    );
  });

  test('goes on in the next snapshot where it was, if that has as many slots', () => {
    const before = snapshot('10.0.0.1', '10.0.0.2', '10.0.0.3');
    new SlotWalk(before, 4).take(5);
    const longer = buildSnapshot(
      2,
      [
        buildTable(
          4,
          ['1', '2', '3', '4'].map((n) => anEndpoint(`10.0.0.${n}`)),
        ),
      ],
      [],
      1,
      before,
    );
    expect(new SlotWalk(longer, 4).take(1)).toBe(2);
    const shorter = buildSnapshot(3, [buildTable(4, [anEndpoint('10.0.0.1')])], [], 1, before);
    expect([new SlotWalk(shorter, 4).take(3), new SlotWalk(shorter, 4).take(1)]).toEqual([0, 0]);
  });
});

describe('a table snapshot', () => {
  test('has each downstream once, both families together, and knows its equal', () => {
    const endpoints = [anEndpoint('10.0.0.1', 9, 2), anEndpoint('10.0.0.2', 9), anEndpoint('fd00::1', 9)];
    const make = (host: string) =>
      buildSnapshot(1, [buildTable(4, endpoints), buildTable(6, endpoints)], [{ family: 4, ip: host }], 2);
    const one = make('10.0.0.9');
    expect(one.downstreams).toHaveLength(3);
    expect([...new Uint16Array(one.slots[4])]).toEqual([0, 1, 0]);
    expect([...new Uint16Array(one.slots[6])]).toEqual([2]);
    expect([sameSnapshot(one, make('10.0.0.9')), sameSnapshot(one, make('10.0.0.8'))]).toEqual([true, false]);
  });

  test('sums what its forwarders count', () => {
    const one = buildSnapshot(1, [buildTable(4, [anEndpoint('10.0.0.1'), anEndpoint('10.0.0.2')])], [], 2);
    new Float64Array(one.counts).set([1, 10, 100, 1000]);
    expect([...countsOf(one)]).toEqual([
      ['10.0.0.1:9000', 101],
      ['10.0.0.2:9000', 1010],
    ]);
  });
});

test('queues keep the order of their runs, and are empty after they were taken', () => {
  const queues = new SendQueues(8, 4);
  for (const [run, queue] of [2, 0, 2, 3, 0].entries()) queues.add(run, queue);
  const taken = [...queues.queues.subarray(0, queues.count)].map((queue) => {
    const runs: number[] = [];
    for (let run = queues.take(queue); run !== -1; run = queues.next[run]!) runs.push(run);
    return [queue, runs];
  });
  expect(taken).toEqual([
    [2, [0, 2]],
    [0, [1, 4]],
    [3, [3]],
  ]);
  expect([0, 2, 3].map((queue) => queues.take(queue))).toEqual([-1, -1, -1]);
});
