/** The parts of health by themselves: conditions, packets, choice, schedule, numbers. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Timer } from '../../agent/clock.ts';
import { decodeReply, encodeRequest } from '../../agent/health/echo.ts';
import { firstDelay, nextDelay } from '../../agent/health/schedule.ts';
import { Counts, chosenOf, type FamilyStates } from '../../agent/health/selection.ts';
import {
  afterRound,
  type Condition,
  type HealthState,
  OUTCOMES,
  type Outcome,
  UNKNOWN,
} from '../../agent/health/state.ts';
import { Statistics } from '../../agent/health/statistics.ts';
import { onTicks } from '../../agent/health/ticks.ts';
import { newToken } from '../../agent/health/token.ts';
import type { Endpoint } from '../../agent/model.ts';
import { FakeTimer } from '../fake/timer.ts';
import { anEndpoint } from '../fake/words.ts';

const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');

describe('a condition', () => {
  /** A round is one letter: Answered, Failed, Unsent. */
  const OUTCOME: Readonly<Record<string, Outcome>> = { A: 'answered', F: 'unanswered', U: 'unsent' };
  const after = (rounds: string, thresholds: { fall: number; rise: number }) =>
    [...rounds].reduce<HealthState>((state, round) => afterRound(state, OUTCOME[round]!, thresholds), UNKNOWN)
      .condition;

  test.each([
    // rounds, fall, rise, condition
    ['', 1, 2, 'unknown'],
    ['A', 1, 2, 'up'],
    ['F', 1, 2, 'down'],
    ['AF', 1, 2, 'down'],
    ['FA', 1, 2, 'down'],
    ['FAA', 1, 2, 'up'],
    ['FAFA', 1, 2, 'down'],
    ['FAFAA', 1, 2, 'up'],
    ['FA', 1, 1, 'up'],
    ['F', 2, 1, 'unknown'],
    ['AF', 2, 1, 'up'],
    ['AFAFAF', 2, 1, 'up'],
    ['AFF', 2, 1, 'down'],
    ['FFFAA', 3, 3, 'down'],
    ['FFFAAA', 3, 3, 'up'],
    ['U', 1, 2, 'unknown'],
    ['FU', 1, 2, 'unknown'],
    ['AUF', 1, 2, 'down'],
    ['FUFF', 3, 2, 'unknown'],
  ] as const)('after rounds %s with fall %i and rise %i is %s', (rounds, fall, rise, condition) => {
    expect(after(rounds, { fall, rise })).toBe(condition);
  });

  test('is down only after as many unanswered rounds in a row as fall says', () => {
    const round = fc.constantFrom(...OUTCOMES);
    fc.assert(
      fc.property(fc.array(round, { maxLength: 40 }), fc.nat({ max: 9 }), fc.nat({ max: 9 }), (rounds, fall, rise) => {
        let state = UNKNOWN;
        let failed = 0;
        for (const outcome of rounds) {
          const before = state.condition;
          state = afterRound(state, outcome, { fall: fall + 1, rise: rise + 1 });
          failed = outcome === 'unanswered' ? failed + 1 : 0;
          if (before !== 'down' && state.condition === 'down') expect(failed).toBe(fall + 1);
        }
      }),
    );
  });
});

describe('an echo request', () => {
  const echo = { identifier: 0x1234, sequence: 0xfffe, data: hex('00112233445566778899aabbccddeeff') };

  test('over IPv4 is as RFC 792 has it, its checksum too', () => {
    const packet = encodeRequest(4, echo);
    expect(packet).toEqual(hex(`0800 ${packet.toString('hex', 2, 4)} 1234 fffe 00112233445566778899aabbccddeeff`));
    let sum = 0;
    for (let at = 0; at < packet.length; at += 2) sum += packet.readUInt16BE(at);
    expect(((sum & 0xffff) + (sum >>> 16)) & 0xffff).toBe(0xffff);
  });

  test('over IPv6 is as RFC 4443 has it, its checksum left to the kernel', () => {
    expect(encodeRequest(6, echo)).toEqual(hex('8000 0000 1234 fffe 00112233445566778899aabbccddeeff'));
  });
});

describe('an echo reply', () => {
  const reply = '0000 ffff 1234 0007 aabb';

  test.each([
    ['IPv4 behind a header without options', 4, `45${'00'.repeat(19)} ${reply}`],
    ['IPv4 behind a header with options', 4, `46${'00'.repeat(23)} ${reply}`],
    ['IPv6', 6, reply.replace('0000', '8100')],
  ] as const)('over %s is read', (_, family, bytes) => {
    expect(decodeReply(family, hex(bytes))).toEqual({ identifier: 0x1234, sequence: 7, data: hex('aabb') });
  });

  test.each([
    ['a request', 4, `45${'00'.repeat(19)} 0800 ffff 1234 0007`],
    ['an error', 4, `45${'00'.repeat(19)} 0301 ffff 0000 0000`],
    ['too short', 4, `45${'00'.repeat(19)} 0000 ffff 12`],
    ['a header that says it is longer than all', 4, '4f'],
    ['nothing at all', 6, ''],
    ['of another code', 6, '8101 0000 1234 0007'],
  ] as const)('that is %s is none', (_, family, bytes) => {
    expect(decodeReply(family, hex(bytes))).toBeUndefined();
  });

  test('of random bytes never throws', () => {
    const bytes = fc.uint8Array({ maxLength: 64 });
    expect(() => fc.assert(fc.property(bytes, (some) => void decodeReply(4, Buffer.from(some))))).not.toThrow();
  });
});

/** By counts that see all endpoints at once; `conditionOf` is asked by an endpoint's place in the list. */
function selectDownstreams(
  endpoints: readonly Endpoint[],
  conditionOf: (index: number) => Condition,
  failOpen: boolean,
): FamilyStates & { readonly downstreams: readonly Endpoint[] } {
  const counts = new Counts(failOpen);
  for (const [index, endpoint] of endpoints.entries()) counts.add(endpoint, conditionOf(index));
  return { downstreams: chosenOf(endpoints, conditionOf, counts), ...counts.families() };
}

describe('the choice', () => {
  const endpoints = ['10.0.0.1', '10.0.0.2', 'fd00::1'].map((ip) => anEndpoint(ip));
  const chosen = ({ downstreams, down }: ReturnType<typeof selectDownstreams>) => [
    downstreams.map(({ address }) => address.ip).join(' '),
    ...down,
  ];

  test.each([
    ['none is down', [], '10.0.0.1 10.0.0.2 fd00::1', [], '10.0.0.1 10.0.0.2 fd00::1'],
    ['one of two', [0], '10.0.0.2 fd00::1', [], '10.0.0.2 fd00::1'],
    ['the only one of a family', [2], '10.0.0.1 10.0.0.2 fd00::1', [6], '10.0.0.1 10.0.0.2'],
    ['a family and one of the other', [1, 2], '10.0.0.1 fd00::1', [6], '10.0.0.1'],
    ['all', [0, 1, 2], '10.0.0.1 10.0.0.2 fd00::1', [4, 6], ''],
  ])('where %s: %j', (_, places, open, families, closed) => {
    for (const other of ['unknown', 'up'] as const) {
      const conditionOf = (index: number) => (places.includes(index) ? 'down' : other);
      expect(chosen(selectDownstreams(endpoints, conditionOf, true))).toEqual([open, ...families]);
      expect(chosen(selectDownstreams(endpoints, conditionOf, false))).toEqual([closed, ...families]);
    }
  });

  test('of none is none, and nothing is down', () => {
    expect(chosen(selectDownstreams([], () => 'down', true))).toEqual(['']);
  });

  /** Endpoints by number: capitals are ready; Up, Down or Not yet asked. */
  const CONDITIONS: Readonly<Record<string, Condition>> = { u: 'up', d: 'down', n: 'unknown' };
  const among = (letters: string, failOpen = true) => {
    const all = [...letters].map((letter, index): Endpoint => {
      return { ...anEndpoint(`10.0.0.${index}`), ...(letter === letter.toLowerCase() && { unready: true }) };
    });
    const choice = selectDownstreams(all, (index) => CONDITIONS[letters[index]!.toLowerCase()]!, failOpen);
    const numbers = choice.downstreams.map(({ address }) => address.ip.split('.')[3]).join('');
    const said = [
      choice.down.length && 'down',
      choice.lastResort.length && 'last',
      choice.unserved.length && 'unserved',
    ];
    return [numbers, ...said.filter((word) => word !== 0)];
  };

  test.each([
    // endpoints, those in use, what is said; and without fail_open
    ['uuu', '012', 'last'],
    ['udn', '0', 'last'],
    ['d', '', 'unserved'],
    ['n', '', 'unserved'],
    ['dn', '', 'unserved'],
    ['Uuu', '0', undefined],
    ['Nuu', '0', undefined],
    ['UDuu', '0', undefined],
    ['Duu', '0', 'down', ''],
    ['DDu', '01', 'down', ''],
    ['', '', undefined],
  ])(
    'of %j is %j: an unready endpoint only where none is ready, and only if it answers',
    (letters, open, word, closed = open) => {
      const said = word === undefined ? [] : [word];
      expect(among(letters, true)).toEqual([open, ...said]);
      expect(among(letters, false)).toEqual([closed, ...said]);
    },
  );

  test('is made for each family by itself', () => {
    const mixed: readonly Endpoint[] = [anEndpoint('10.0.0.1'), { ...anEndpoint('fd00::1'), unready: true }];
    expect(selectDownstreams(mixed, () => 'up', true)).toEqual({
      downstreams: mixed,
      down: [],
      lastResort: [6],
      unserved: [],
    });
    const alone = selectDownstreams(mixed, () => 'unknown', true);
    expect(alone).toEqual({ downstreams: [mixed[0]], down: [], lastResort: [], unserved: [6] });
  });
});

describe('the schedule', () => {
  test.each([1, 2, 3, 10, 100, 1000, 4096])('deals first rounds of %i downstreams evenly', (count) => {
    const delays = Array.from({ length: count }, (_, order) => firstDelay(order, 5000)).sort((a, b) => a - b);
    const gaps = delays.map((delay, index) => (delays[index + 1] ?? 5000) - delay);
    expect(Math.max(...gaps, delays[0]!)).toBeLessThanOrEqual((2 * 5000) / count);
  });

  test.each([1000, 5000, 3_600_000])('leaves less than an interval of %i ms between rounds', (interval) => {
    for (const random of [0, 0.5, 0.999]) {
      expect(nextDelay(interval, random)).toBeLessThanOrEqual(interval - 150);
      expect(nextDelay(interval, random)).toBeGreaterThanOrEqual(interval * 0.8);
    }
  });
});

describe('timers on ticks', () => {
  function rig() {
    const timer = new FakeTimer();
    const fired: string[] = [];
    let set = 0;
    const counted: Timer = (milliseconds, task) => {
      set++;
      return timer.set(milliseconds, task);
    };
    const ticks = onTicks(counted, () => timer.now, 50);
    const at = (milliseconds: number, name: string) => ticks(milliseconds, () => fired.push(`${name}@${timer.now}`));
    return { timer, fired, at, timers: () => set };
  }

  test('fire on the nearest tick, all of a tick by one timer, in their order', () => {
    const { timer, fired, at, timers } = rig();
    timer.advance(7);
    at(160, 'b');
    at(120, 'a');
    at(170, 'c');
    at(0, 'now');
    timer.advance(1000);
    expect(fired).toEqual(['now@50', 'b@150', 'a@150', 'c@200']);
    expect(timers()).toBe(3);
  });

  test('that are called off do not fire, also from within their tick, and take their timer with them', () => {
    const { timer, fired, at } = rig();
    const cancels = ['a', 'b'].map((name) => at(100, name));
    for (const cancel of cancels) cancel();
    cancels[0]!();
    at(100, 'c');
    timer.advance(500);
    expect(fired).toEqual(['c@100']);
  });

  test('may set others while they fire', () => {
    const { timer, fired, at } = rig();
    const again = (times: number): void => void at(0, `${times}`);
    again(1);
    timer.set(50, () => again(2));
    timer.advance(500);
    expect(fired).toEqual(['1@50', '2@100']);
  });
});

test('tokens do not repeat', () => {
  const tokens = Array.from({ length: 1000 }, newToken);
  expect(new Set(tokens.map((token) => token.toString('hex'))).size).toBe(1000);
  expect(tokens.every(({ length }) => length === 16)).toBe(true);
});

test('round trips are counted in the bucket that holds them, the longest beyond the last', () => {
  const statistics = new Statistics();
  for (const roundTripMs of [0.05, 0.1, 3, 9999]) statistics.ended({ outcome: 'answered', roundTripMs });
  statistics.ended({ outcome: 'unanswered', cause: '' });
  const { bounds, counts, sum } = statistics.roundTrips();
  expect(counts).toHaveLength(bounds.length + 1);
  expect([counts[0], counts[bounds.indexOf(0.005)], counts.at(-1)]).toEqual([2, 1, 1]);
  expect(sum).toBeCloseTo(10.00215);
  expect(statistics.rounds).toEqual({ answered: 4, unanswered: 1, unsent: 0 });
});
