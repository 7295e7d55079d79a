/** The program against the oracle: sequences of random packets through both, from the same beginning. */
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { VERDICTS } from '../../agent/datapath/tc/abi.ts';
import { familiesOf } from '../../agent/model.ts';
import { buildTable } from '../../agent/table.ts';
import { macBytes, NODE_MAC } from '../../lab/ip.ts';
import { lacking } from '../../lab/kernel.ts';
import { patient } from '../../lab/patience.ts';
import { LISTENERS, type ListenerName } from './listeners.ts';
import { Oracle, type OracleListener } from './oracle.ts';
import { packet } from './packets.ts';
import { brief } from './reading.ts';
import { listenerOf, type Outcome, Rig } from './rig.ts';
import { IPV4, toListener } from './rows.ts';

const root = process.getuid?.() === 0;
/** `PACKET_SEED=7 PACKET_RUNS=100000` looks elsewhere and longer. A failure prints seed, path and packets. */
const SEED = Number(process.env.PACKET_SEED ?? 1);
const RUNS = Number(process.env.PACKET_RUNS ?? 900);
const PACKETS_A_RUN = 40;
/** What no packet alone can bring about. */
const OUT_OF_REACH = [
  'loopback',
  'forwarding_off',
  'fib_other',
  'downstream_gone',
  'rewrite_failed',
  'redirect_failed',
  'safety_net_full',
  'already_spread',
  'lease_expired',
];

const listeners: OracleListener[] = Object.entries(LISTENERS).map(([name, plan], id) => {
  const listener = listenerOf(id, name, plan);
  const endpoints = listener.endpoints.kind === 'static' ? listener.endpoints.list : [];
  const walk = (family: 4 | 6) => buildTable(family, endpoints).slots;
  const slots = new Map(familiesOf(listener).map((family) => [family, walk(family)]));
  return { name, bind: listener.bind, on: listener.interfaces, slots };
});

describe.skipIf(!root)('the program and the oracle (needs root)', () => {
  let rig: Rig<ListenerName>;
  beforeAll(() => {
    rig = new Rig(LISTENERS);
  });
  afterAll(() => rig?.[Symbol.dispose]());

  /** Promised from a release on; an earlier one may have it from its stable releases, as Debian's 5.10 has. */
  const tellsFailedNeighbours = () => {
    if (!lacking('neighbour_state')) return true;
    rig.rewind();
    return rig.run(toListener(IPV4, 'silent').frame).moved.silent?.neigh_unresolved === 1;
  };

  test(
    'agree on action, frame and every counter',
    () => {
      const met = new Map<string, number>();
      let packets = 0;
      const tellsFailed = tellsFailedNeighbours();
      const sequences = fc.array(packet, { minLength: 1, maxLength: PACKETS_A_RUN, size: 'max' });
      fc.assert(
        fc.property(sequences, (sequence) => {
          const oracle = new Oracle(listeners, macBytes(NODE_MAC), tellsFailed);
          rig.rewind();
          for (const [at, { frame, arrival }] of sequence.entries()) {
            const expected = oracle.run(frame, arrival);
            const found = rig.run(frame, arrival);
            packets++;
            for (const counters of Object.values(found.moved)) {
              for (const counter of Object.keys(counters)) met.set(counter, (met.get(counter) ?? 0) + 1);
            }
            // A matcher costs more than the packet: it is only there to tell the difference.
            if (same(found, expected)) continue;
            expect(`packet ${at}: ${readable(found)}`).toBe(`packet ${at}: ${readable(expected)}`);
          }
        }),
        { seed: SEED, numRuns: RUNS },
      );

      const verdicts = VERDICTS.map(({ name }) => name);
      const unmet = verdicts.filter((name) => !met.has(name));
      expect(unmet).toEqual(OUT_OF_REACH);
      expect(met.get('pkts_received')).toBeGreaterThan(packets / 4);
      expect(packets).toBeGreaterThan(RUNS * (PACKETS_A_RUN / 2 - 2));
      // Far more than it takes: shrinking a failure runs many sequences again.
    },
    patient(30_000 + 20 * RUNS),
  );
});

const same = (a: Outcome, b: Outcome) =>
  a.action === b.action &&
  a.frame.equals(b.frame) &&
  readableCounters(a) === readableCounters(b) &&
  isDeepStrictEqual(a.handed, b.handed);

const readable = (outcome: Outcome) =>
  `${outcome.action} ${brief(outcome.frame)} ${readableCounters(outcome)} ${JSON.stringify(outcome.handed)}`;

function readableCounters({ moved }: Outcome): string {
  const listeners = Object.entries(moved).map(([listener, counters]) => {
    const sorted = Object.entries(counters ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
    return `${listener}(${sorted.map(([name, by]) => `${name} ${by}`).join(', ')})`;
  });
  return listeners.join(' ');
}
