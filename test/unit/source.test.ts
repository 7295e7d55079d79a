/** Listeners that come, change and go, as discovery sees them: on an API without a network and a clock that stands still. */
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { formatAddress } from '../../agent/address.ts';
import { openSource } from '../../agent/discovery/source.ts';
import type { EndpointSpec, Listener } from '../../agent/model.ts';
import { aSlice } from '../../lab/api/slices.ts';
import { MemoryApi } from '../fake/api/memory.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aListener, aLog, anEndpoint } from '../fake/words.ts';

const service = (namespace: string): EndpointSpec => ({
  kind: 'kubernetes',
  namespace,
  service: 'receivers',
  port: 9000,
});
const named = (name: string, endpoints: EndpointSpec, fields: Partial<Listener> = {}) =>
  aListener({ name, endpoints, ...fields });
const fixed = (...ips: readonly string[]): EndpointSpec => ({ kind: 'static', list: ips.map((ip) => anEndpoint(ip)) });

function rig() {
  const timer = new FakeTimer();
  const api = new MemoryApi(() => timer.now);
  for (const [namespace, ip] of [
    ['red', '10.1.0.1'],
    ['blue', '10.2.0.1'],
  ] as const) {
    api.store.put(namespace, aSlice('a', [ip]));
  }
  const log = aLog();
  const state = { changes: 0, errors: [] as unknown[] };
  const onError = (error: unknown) => void state.errors.push(error);
  const source = openSource({ log, api, timer: timer.set, now: () => timer.now, random: () => 0.5, onError });
  const start = () => source.start(() => void state.changes++);
  const of = (listener: Listener) => source.endpoints(listener)?.list.map(({ address }) => formatAddress(address));
  const streams = () => source.status().map(({ namespace }) => namespace);
  const settle = async () => {
    // The module is loaded, and each request of the fake answers, in a few turns.
    for (let turns = 0; turns < 20; turns++) await turn();
  };
  return { timer, api, log, state, source, start, of, streams, settle };
}

describe('the listeners that are wanted', () => {
  test('ask nothing of the API before the start, and one stream serves all listeners of a Service', async () => {
    const { api, source, start, of, streams, settle } = rig();
    const [a, b] = [named('a', service('red')), named('b', service('red'))];
    source.want([a, b]);
    await settle();
    expect([api.lists.length, of(a)]).toEqual([0, undefined]);
    await start();
    await settle();
    expect([streams(), api.lists.length, api.standing]).toEqual([['red'], 1, 1]);
    expect([of(a), of(b)]).toEqual([['10.1.0.1:9000'], ['10.1.0.1:9000']]);
  });

  test('may come later, the first of a Service among them', async () => {
    const { api, source, start, of, state, settle } = rig();
    const [a, b] = [named('a', fixed('10.0.0.1')), named('b', service('blue'))];
    source.want([a]);
    await start();
    await settle();
    expect([of(a), api.lists.length]).toEqual([['10.0.0.1:9000'], 0]);
    source.want([a, b]);
    expect(of(b)).toBeUndefined();
    await settle();
    expect([of(b), state.changes, state.errors]).toEqual([['10.2.0.1:9000'], 1, []]);
  });

  test('are dropped with their streams, which end when nobody is left', async () => {
    const { api, source, start, of, streams, settle } = rig();
    const [a, b, c] = [named('a', service('red')), named('b', service('red')), named('c', service('blue'))];
    source.want([a, b, c]);
    await start();
    await settle();
    source.want([b, c]);
    await settle();
    expect([of(a), of(b), streams()]).toEqual([undefined, ['10.1.0.1:9000'], ['red', 'blue']]);
    source.want([c]);
    await settle();
    expect([of(b), streams(), api.standing]).toEqual([undefined, ['blue'], 1]);
    const { length } = api.lists;
    api.store.put('red', aSlice('a', ['10.1.0.9']));
    api.break();
    await settle();
    expect(api.lists.length - length).toBeLessThanOrEqual(1);
  });

  test('of another Service under the same name have its endpoints, never those of the first', async () => {
    const { source, start, of, streams, settle } = rig();
    source.want([named('a', service('red'))]);
    await start();
    await settle();
    const moved = named('a', service('blue'));
    const first = source.endpoints(moved)!.version;
    source.want([moved]);
    expect(of(moved)).toBeUndefined();
    await settle();
    expect([of(moved), streams()]).toEqual([['10.2.0.1:9000'], ['blue']]);
    expect(source.endpoints(moved)!.version).not.toBe(first);
  });

  test('that change places or names keep what is theirs', async () => {
    const { source, start, of, settle } = rig();
    source.want([named('a', service('red'), { id: 0 }), named('b', service('blue'), { id: 1 })]);
    await start();
    await settle();
    const [b, a] = [named('b', service('blue'), { id: 0 }), named('a', service('red'), { id: 1 })];
    source.want([b, a]);
    expect([of(a), of(b)]).toEqual([['10.1.0.1:9000'], ['10.2.0.1:9000']]);
    const [c, d] = [named('b', service('red'), { id: 0 }), named('a', service('blue'), { id: 1 })];
    source.want([c, d]);
    expect([of(c), of(d)]).toEqual([['10.1.0.1:9000'], ['10.2.0.1:9000']]);
  });

  test('may go from a list to a Service and back', async () => {
    const { source, start, of, settle } = rig();
    const [listed, followed] = [named('a', fixed('10.0.0.1')), named('a', service('red'))];
    source.want([listed]);
    await start();
    const versions = [source.endpoints(listed)!.version];
    source.want([followed]);
    await settle();
    expect(of(followed)).toEqual(['10.1.0.1:9000']);
    versions.push(source.endpoints(followed)!.version);
    source.want([listed]);
    expect(of(listed)).toEqual(['10.0.0.1:9000']);
    versions.push(source.endpoints(listed)!.version);
    expect(new Set(versions).size).toBe(3);
  });

  test('have another version only where their endpoints were told anew', async () => {
    const { api, source, start, settle } = rig();
    const all = () => [named('a', fixed('10.0.0.1')), named('b', service('red'))] as const;
    const versions = () => all().map((listener) => source.endpoints(listener)!.version);
    source.want(all());
    await start();
    await settle();
    const before = versions();
    source.want(all());
    expect(versions()).toEqual(before);
    api.store.put('red', aSlice('b', ['10.1.0.2']));
    expect([versions()[0] === before[0], versions()[1] === before[1]]).toEqual([true, false]);
    source.want([named('a', fixed('10.0.0.2'))]);
    expect(source.endpoints(all()[0])!.version).not.toBe(before[0]);
  });

  test('take what was remarked of them along, without a word', async () => {
    const { timer, log, source, start, settle } = rig();
    const odd = named('a', { kind: 'kubernetes', namespace: 'red', service: 'receivers', port: 'no-such-port' });
    source.want([odd]);
    await start();
    await settle();
    source.endpoints(odd);
    const { length } = log.lines;
    expect(length).toBe(1);
    source.want([named('a', service('red'))]);
    source.endpoints(odd);
    timer.advance(1_000_000);
    expect(log.lines.slice(length).filter((line) => line.includes('no-such-port'))).toEqual([]);
  });
});
