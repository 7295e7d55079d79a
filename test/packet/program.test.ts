/** The real program, packet by packet: the tables of tables/ through BPF_PROG_TEST_RUN. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { LISTENERS, type ListenerName } from './listeners.ts';
import { Rig } from './rig.ts';
import type { Row, Step } from './rows.ts';
import { EXTENSIONS } from './tables/extensions.ts';
import { FRAGMENTS } from './tables/fragments.ts';
import { LENGTHS } from './tables/lengths.ts';
import { MATCHING } from './tables/matching.ts';
import { FORWARDING_OFF, NEXT_HOPS } from './tables/nexthops.ts';
import { REWRITING } from './tables/rewriting.ts';
import { MANY_IN_A_ROW, SPREADING } from './tables/spreading.ts';

const root = process.getuid?.() === 0;
let rig: Rig<ListenerName>;

/** Runs a row and holds each step against what it expects, then all of it against the law of conservation. */
function play({ steps }: Row): void {
  for (const [at, { frame, arrival, ...expected }] of steps.entries()) {
    const outcome = rig.run(frame, arrival);
    // Only what differs is worth the time that a message of thousands of steps takes.
    if (same(outcome, expected)) continue;
    expect({ step: at, ...readable(outcome) }).toEqual({ step: at, ...readable(expected) });
  }
  for (const { received, forwarded, toStack, dropped } of rig.datapath.counters()) {
    const lost = [...toStack.values(), ...dropped.values()].reduce((sum, count) => sum + count, 0);
    expect(received).toBe(forwarded + lost);
  }
}

type Answer = Pick<Step, 'action' | 'out' | 'moved'>;
const readable = ({ action, out, moved }: Answer) => ({ action, out: out.toString('hex'), moved });
const same = (a: Answer, b: Answer) => a.action === b.action && a.out.equals(b.out) && sameCounters(a.moved, b.moved);
