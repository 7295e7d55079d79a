/** The addresses of nodes, from an API that is told by hand, on a clock that stands still. */
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { NodeApi } from '../../agent/discovery/api.ts';
import { ApiFailure } from '../../agent/discovery/failure.ts';
import { NodeAddresses, TIMES } from '../../agent/discovery/node-addresses.ts';
import { aNode } from '../../lab/api/slices.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aLog } from '../fake/words.ts';

function rig(objects: Readonly<Record<string, object>> = {}) {
  const timer = new FakeTimer();
  const world = { objects: new Map(Object.entries(objects)), asked: [] as string[], refusal: undefined as unknown };
  const api: NodeApi = {
    async node(name) {
      world.asked.push(name);
      if (world.refusal) throw world.refusal;
      if (!world.objects.has(name)) throw new ApiFailure('not_found', `nodes "${name}" not found`);
      return world.objects.get(name);
    },
  };
  const log = aLog();
  let changes = 0;
  const nodes = new NodeAddresses({
    api,
    log,
    timer: timer.set,
    now: () => timer.now,
    random: () => 0.5,
    onChange: () => changes++,
  });
  const pass = async (milliseconds: number) => {
    for (let step = 0; step < 10; step++) await turn();
    timer.advance(milliseconds);
    for (let step = 0; step < 10; step++) await turn();
  };
  const want = (...names: string[]) => nodes.want(new Set(names));
  return { world, nodes, log, pass, want, changes: () => changes };
}

const HOURS = TIMES.refreshMs.least + TIMES.refreshMs.spread;

describe('the addresses of nodes', () => {
  test('are the first InternalIP of each family, and told of once for all that were asked for', async () => {
    const { nodes, want, pass, changes, world } = rig({
      a: aNode('a', '10.0.0.11', '10.9.9.9', 'FD00:0::11'),
      b: {
        status: { addresses: [null, { type: 'ExternalIP', address: '192.0.2.1' }, { type: 'InternalIP', address: 7 }] },
      },
      c: {},
    });
    want('a', 'b', 'c', 'gone');
    await pass(TIMES.tellMs);
    expect([nodes.addressOf('a', 4), nodes.addressOf('a', 6)]).toEqual(['10.0.0.11', 'fd00::11']);
    expect([nodes.addressOf('b', 4), nodes.addressOf('c', 6), nodes.addressOf('gone', 4)]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    expect([world.asked, changes(), nodes.version]).toEqual([['a', 'b', 'c', 'gone'], 1, 1]);
  });

  test('are asked for again after hours, or when a node is named anew, and not between', async () => {
    const { nodes, want, pass, world, changes } = rig({ a: aNode('a', '10.0.0.11') });
    want('a');
    await pass(TIMES.tellMs);
    world.objects.set('a', aNode('a', '10.0.0.12'));
    want('a');
    await pass(TIMES.refreshMs.least / 2);
    expect([nodes.addressOf('a', 4), world.asked.length]).toEqual(['10.0.0.11', 1]);
    await pass(HOURS);
    await pass(TIMES.tellMs);
    expect([nodes.addressOf('a', 4), world.asked.length, changes()]).toEqual(['10.0.0.12', 2, 2]);
    want();
    expect(nodes.addressOf('a', 4)).toBeUndefined();
    world.objects.set('a', aNode('a', '10.0.0.13'));
    want('a');
    await pass(TIMES.tellMs);
    expect(nodes.addressOf('a', 4)).toBe('10.0.0.13');
  });

  test('that may not be had are no trouble: that is said once, and asked again after an hour', async () => {
    const { nodes, want, pass, world, log } = rig({ a: aNode('a', '10.0.0.11') });
    world.refusal = new ApiFailure('forbidden', '403 nodes "a" is forbidden');
    want('a');
    await pass(1000);
    want('a', 'b');
    await pass(1000);
    await pass(TIMES.refreshMs.least);
    const said = log.lines.filter((line) => line.includes('Nodes are not ours to get'));
    expect([said.length, world.asked.length]).toEqual([1, 2]);
    world.refusal = undefined;
    await pass(TIMES.refreshMs.least);
    expect(nodes.addressOf('a', 4)).toBe('10.0.0.11');
  });

  test('stay in use while the server fails, which is asked less and less often', async () => {
    const { nodes, want, pass, world } = rig({ a: aNode('a', '10.0.0.11') });
    want('a');
    await pass(1000);
    world.refusal = new ApiFailure('server_error', '500');
    for (let second = 0; second < 60; second++) {
      want('a', 'b');
      await pass(1000);
    }
    expect(nodes.addressOf('a', 4)).toBe('10.0.0.11');
    expect(world.asked.length).toBeLessThan(12);
    nodes.close();
    await pass(HOURS);
    expect(world.asked.length).toBeLessThan(12);
  });
});
