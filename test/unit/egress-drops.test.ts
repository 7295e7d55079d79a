/** What links drop on the way out, of links that come, go and come again: no count goes back. */
import { expect, test } from 'vitest';
import type { Link } from '../../agent/netlink/link.ts';
import { EgressDrops } from '../../agent/reachability/egress-drops.ts';

function rig() {
  const world = { links: new Map<number, [name: string, drops: number]>(), ours: new Set<number>() };
  const host = {
    links: () => [...world.links].map(([index, [name]]) => ({ index, name }) as Link),
    egressDrops: () => new Map([...world.links].map(([index, [, drops]]) => [index, drops])),
  };
  const drops = new EgressDrops({ host, ours: () => world.ours });
  const put = (index: number, name: string, packets: number) => world.links.set(index, [name, packets]);
  const end = (ifindex: number, packets: number) => {
    const [name] = world.links.get(ifindex)!;
    world.links.delete(ifindex);
    drops.notice({ kind: 'link', ifindex, gone: { name, packets } });
    world.ours.delete(ifindex);
  };
  const read = () => Object.fromEntries(drops.read());
  return { world, drops, put, end, read };
}

test('those of links that lead to downstreams, and no others', () => {
  const { world, put, read } = rig();
  put(1, 'eth0', 9);
  put(2, 'veth1', 3);
  world.ours.add(2);
  expect(read()).toEqual({ veth1: 3 });
});

test('of one that leads to none any more they go on', () => {
  const { world, drops, put, read } = rig();
  put(2, 'veth1', 0);
  world.ours.add(2);
  // It goes down, and its routes with it, before anybody has read.
  drops.notice({ kind: 'link', ifindex: 2 });
  world.ours.delete(2);
  put(2, 'veth1', 4);
  expect(read()).toEqual({ veth1: 4 });
});

test('of one that is gone the last count is kept, and added to by the next of its name', () => {
  const { world, put, end, read } = rig();
  put(2, 'veth1', 1);
  world.ours.add(2);
  expect(read()).toEqual({ veth1: 1 });
  end(2, 5);
  expect(read()).toEqual({ veth1: 5 });
  put(3, 'veth1', 2);
  world.ours.add(3);
  expect(read()).toEqual({ veth1: 7 });
  end(3, 2);
  expect(read()).toEqual({ veth1: 7 });
});

test('of one whose end nobody has told, or whose queue had more, what was read last', () => {
  const { world, put, end, read } = rig();
  for (const index of [2, 3]) {
    put(index, `veth${index}`, 8);
    world.ours.add(index);
  }
  read();
  world.links.delete(2);
  world.ours.delete(2);
  end(3, 1);
  expect(read()).toEqual({ veth2: 8, veth3: 8 });
});

test('of very many links that are gone, the oldest together', () => {
  const { world, put, end, read } = rig();
  for (let index = 1; index <= 1030; index++) {
    put(index, `veth${index}`, 1);
    world.ours.add(index);
    end(index, 1);
  }
  const counts = read();
  expect(Object.keys(counts).length).toBeLessThanOrEqual(1025);
  expect(counts.other).toBeGreaterThan(5);
  expect(counts.veth1).toBeUndefined();
  expect(Object.values(counts).reduce((sum, one) => sum + one)).toBe(1030);
});
