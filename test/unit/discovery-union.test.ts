/** Whatever order things happen in, the endpoints known are those that the API would state now. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { anEndpoint, aSlice, aTerminating } from '../../lab/api/slices.ts';
import type { ApiObject } from '../../lab/api/store.ts';
import { type StreamRig, streamRig } from '../fake/api/rig.ts';

const NS = 'logging';
const SLICES = ['a', 'b', 'c', 'd'];
const IPS = Array.from({ length: 6 }, (_, index) => `10.0.0.${index + 1}`);
const STATES = {
  ready: (ip: string) => anEndpoint(ip),
  unknown: (ip: string) => ({ addresses: [ip] }),
  unready: (ip: string) => anEndpoint(ip, { ready: false }),
  draining: (ip: string) => aTerminating(ip),
  terminating: (ip: string) => aTerminating(ip, false),
};
type State = keyof typeof STATES;

type Step =
  | { readonly do: 'put'; readonly slice: string; readonly endpoints: readonly (readonly [string, State])[] }
  | { readonly do: 'move'; readonly from: string; readonly to: string; readonly newFirst: boolean }
  | { readonly do: 'delete'; readonly slice: string }
  | { readonly do: (typeof FAULTS)[number] }
  | { readonly do: 'wait'; readonly ms: number };

const slice = fc.constantFrom(...SLICES);
const state = fc.constantFrom<State>('ready', 'unknown', 'unready', 'draining', 'terminating');
const endpoints = fc.uniqueArray(fc.tuple(fc.constantFrom(...IPS), state), { selector: ([ip]) => ip });
const FAULTS = ['end', 'reset', 'gone', 'compact', 'bookmark', 'restore', 'garbage'] as const;
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('put' as const), slice, endpoints }) },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant('move' as const), from: slice, to: slice, newFirst: fc.boolean() }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('delete' as const), slice }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom(...FAULTS) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.nat(3000) }) },
);

test('any order of events, slice moves and faults ends in the union that the API would state', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const rig = streamRig();
      for (const one of steps) await take(rig, one);
      // Longer than from one bookmark to the next, and than any pause between two tries.
      await rig.pass(100_000, 1000);
      expect(rig.endpoints()).toEqual(stated(rig.api.store.list(NS, () => true)));
      rig.stream.close();
    }),
    { numRuns: 200 },
  );
});

async function take({ api, pass }: StreamRig, one: Step): Promise<void> {
  const { store } = api;
  switch (one.do) {
    case 'put':
      store.put(NS, made(one.slice, one.endpoints));
      return;
    case 'delete':
      store.delete(NS, one.slice);
      return;
    case 'move': {
      const last = (store.get(NS, one.from)?.endpoints as readonly object[] | undefined)?.at(-1);
      if (!last || one.from === one.to) return;
      const without = () =>
        store.put(
          NS,
          changed(store.get(NS, one.from), one.from, (all) => all.slice(0, -1)),
        );
      if (!one.newFirst) without();
      store.put(
        NS,
        changed(store.get(NS, one.to), one.to, (all) => [...all, last]),
      );
      if (one.newFirst) without();
      return;
    }
    case 'restore':
      store.restore(NS, [made('a', [['10.0.0.1', 'ready']])]);
      // Nobody is told; only a broken connection or a bookmark can tell.
      api.bookmark();
      return;
    case 'compact':
      store.compact();
      return;
    case 'bookmark':
      api.bookmark();
      return;
    case 'garbage':
      api.send('MODIFIED', { metadata: { name: 'a' }, addressType: '?' });
      return;
    case 'end':
      api.end();
      return pass(0);
    case 'wait':
      return pass(one.ms, 500);
    default:
      api.break(one.do);
      return pass(0);
  }
}

function made(name: string, all: readonly (readonly [string, State])[]): ApiObject {
  return aSlice(
    name,
    all.map(([ip, condition]) => STATES[condition](ip)),
  );
}

function changed(old: ApiObject | undefined, name: string, change: (all: readonly object[]) => readonly object[]) {
  return aSlice(name, change((old?.endpoints as readonly object[] | undefined) ?? []));
}

/** The same said once more, in another way: by address, from the raw objects. */
function stated(objects: readonly ApiObject[]): string[] {
  const all = objects.flatMap((object) => object.endpoints as { addresses: string[]; conditions?: Conditions }[]);
  const having = (wanted: (conditions: Conditions) => boolean) =>
    IPS.filter((ip) => all.some(({ addresses, conditions = {} }) => addresses[0] === ip && wanted(conditions)));
  const ready = having((conditions) => conditions.ready !== false && !conditions.terminating);
  const draining = having((conditions) => conditions.terminating === true && conditions.serving === true);
  return (ready.length > 0 ? ready : draining).map((ip) => `${ip}:9000`);
}

interface Conditions {
  readonly ready?: boolean;
  readonly serving?: boolean;
  readonly terminating?: boolean;
}
