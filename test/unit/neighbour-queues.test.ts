/** What waits for a neighbour, against a host that keeps state: in order, bounded, and until when. */
import { describe, expect, test } from 'vitest';
import type { IpAddress } from '../../agent/address.ts';
import { NeighbourQueues } from '../../agent/datapath/tc/handed/neighbour-queues.ts';
import { FakeTimer } from '../fake/timer.ts';

type State = 'resolved' | 'asked' | 'failed';

function rig() {
  const clock = new FakeTimer();
  const states = new Map<string, State>();
  const world = {
    asked: [] as string[],
    left: [] as string[],
    failed: [] as string[],
    refuses: false,
    answersAtOnce: false,
    looks: 0,
  };
  const host = {
    neighbour: (ifindex: number, { family, ip }: IpAddress) => {
      world.looks++;
      const state = states.get(ip);
      return state && { family, ip, ifindex, unresolved: state !== 'resolved', failed: state === 'failed', mac: '' };
    },
    use: (_: number, { ip }: IpAddress) => {
      world.asked.push(ip);
      if (world.refuses) throw new Error('no such device');
      if (states.get(ip) !== 'resolved') states.set(ip, world.answersAtOnce ? 'resolved' : 'asked');
    },
  };
  const queues = new NeighbourQueues({ host, timer: clock.set, now: () => clock.now });
  const offer = (name: string, ip = '10.0.1.10', length = 100) =>
    queues.offer({ ifindex: 7, address: { family: 4, ip } }, length, () => ({
      leave: () => world.left.push(name),
      fail: () => world.failed.push(name),
    }));
  return { clock, states, world, queues, offer };
}

describe('what is for a neighbour', () => {
  test('that is resolved goes', () => {
    const { states, world, offer } = rig();
    states.set('10.0.1.10', 'resolved');
    expect([offer('a'), offer('b'), world.asked]).toEqual(['go', 'go', []]);
  });

  test.each([undefined, 'failed'] as const)('that is %s waits, and leaves in order when it has answered', (state) => {
    const { clock, states, world, offer } = rig();
    if (state) states.set('10.0.1.10', state);
    expect([offer('a'), offer('b'), world.asked]).toEqual(['waits', 'waits', ['10.0.1.10']]);
    clock.advance(500);
    states.set('10.0.1.10', 'resolved');
    // Not before those that were there first.
    expect([offer('c'), world.left]).toEqual(['waits', []]);
    clock.advance(20);
    expect([world.left, offer('d')]).toEqual([['a', 'b', 'c'], 'go']);
    expect(world.failed).toEqual([]);
  });

  test('that answers before the question is back, as a pod on this host, does not have it wait', () => {
    const { world, offer } = rig();
    world.answersAtOnce = true;
    expect([offer('a'), world.asked]).toEqual(['go', ['10.0.1.10']]);
  });

  test('leaves as soon as it answers', () => {
    const { clock, states, world, offer } = rig();
    offer('a');
    states.set('10.0.1.10', 'resolved');
    clock.advance(1);
    expect(world.left).toEqual(['a']);
  });

  test.each([
    ['when the kernel has given it up', 'failed', 1500, 1520],
    ['or after three seconds', 'asked', 2980, 3020],
  ] as const)('fails %s, and who comes then asks anew', (_, state, before, after) => {
    const { clock, states, world, offer } = rig();
    offer('a');
    offer('b');
    clock.advance(before);
    expect(world.failed).toEqual([]);
    states.set('10.0.1.10', state);
    clock.advance(after - before);
    expect([world.failed, world.left]).toEqual([['a', 'b'], []]);
    expect([offer('c'), world.asked.length]).toEqual(['waits', 2]);
  });

  test('is asked for again where somebody has flushed the table', () => {
    const { clock, states, world, offer } = rig();
    offer('a');
    clock.advance(100);
    states.clear();
    clock.advance(20);
    expect([world.asked.length, states.get('10.0.1.10')]).toEqual([2, 'asked']);
  });

  test('that cannot be asked for is refused, and tried again after a tenth of a second, not each time', () => {
    const { clock, world, offer } = rig();
    world.refuses = true;
    expect([offer('a'), offer('b'), world.asked.length]).toEqual(['full', 'full', 1]);
    world.refuses = false;
    clock.advance(150);
    expect(offer('c')).toBe('waits');
  });

  test('is bounded for one neighbour, cheaply, and for all together', () => {
    const { world, offer } = rig();
    const fill = (ip: string) => {
      let count = 0;
      while (offer('a', ip) === 'waits') count++;
      return count;
    };
    expect(fill('10.0.1.10')).toBe(Math.floor(212_992 / 612));
    const looks = world.looks;
    expect([offer('b'), world.looks]).toEqual(['full', looks]);
    expect(offer('c', '10.0.1.11')).toBe('waits');
    let all = 0;
    for (let host = 20; host < 60; host++) all += fill(`10.0.1.${host}`);
    expect(all).toBeLessThan((4 << 20) / 612);
    expect(offer('d', '10.0.1.99')).toBe('full');
  });

  test('leaves when the agent does, for the kernel to keep', () => {
    const { clock, world, queues, offer } = rig();
    offer('a');
    queues.close();
    clock.advance(5000);
    expect([world.left, world.failed]).toEqual([['a'], []]);
  });
});
