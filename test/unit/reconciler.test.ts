import { describe, expect, test } from 'vitest';
import type { Health as HealthConfig } from '../../agent/config/load.ts';
import { Health } from '../../agent/health/health.ts';
import type { Listener } from '../../agent/model.ts';
import { Reconciler } from '../../agent/reconciler.ts';
import { FakeDatapath } from '../fake/datapath.ts';
import { FakeSource } from '../fake/source.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aLink, aListener, aLog, anEndpoint } from '../fake/words.ts';

const HEALTH: HealthConfig = {
  enabled: false,
  intervalSecs: 5,
  timeoutSecs: 2,
  protocol: 'icmp',
  failOpen: true,
  fall: 1,
  rise: 2,
};

function rig(listeners: readonly Listener[] = [aListener()]) {
  const timer = new FakeTimer();
  const datapath = new FakeDatapath();
  const log = aLog();
  const source = new FakeSource(listeners.map(({ name }) => [name, [anEndpoint('10.0.1.10')]]));
  const world = {
    links: [aLink()],
    addresses: [{ family: 4 as const, ip: '10.0.0.1', ifindex: 2 }],
    endpoints: source.lists,
  };
  const host = { links: () => world.links, addresses: () => world.addresses };
  const now = () => timer.now;
  const health = new Health({ log, config: HEALTH, clock: { timer: timer.set, now, random: () => 0.5 } });
  const reconciler = new Reconciler({ log, source, health, host, datapath, timer: timer.set, now });
  const start = () => reconciler.want(listeners);
  return { timer, datapath, log, world, source, reconciler, start };
}

describe('the reconciler', () => {
  test('says where downstreams live, builds anew when that is news, and only then', () => {
    const endpoints = ['10.1.1.10', '10.1.1.11', '10.1.2.10'].map((ip) => anEndpoint(ip));
    const world = { version: '1', of: new Map([['10.1.1.10', '10.0.0.11']]) };
    const timer = new FakeTimer();
    const datapath = new FakeDatapath();
    const log = aLog();
    const now = () => timer.now;
    const clock = { timer: timer.set, now, random: () => 0.5 };
    const reconciler = new Reconciler({
      ...{ log, datapath, ...clock, source: new FakeSource([['listener-0', endpoints]]) },
      health: new Health({ log, config: HEALTH, clock }),
      host: { links: () => [aLink()], addresses: () => [] },
      nodes: {
        get version() {
          return world.version;
        },
        of: ({ address }) => world.of.get(address.ip),
      },
    });
    reconciler.want([aListener()]);
    const table = () => datapath.tables.get('listener-0')![0]!;
    const pass = () => {
      reconciler.trigger();
      timer.advance(1000);
      return table();
    };
    const first = table();
    expect(first.slots.map(({ node }) => node)).toEqual(['10.0.0.11', undefined, undefined]);
    world.version = '2';
    expect(pass()).toBe(first);
    world.of.set('10.1.1.11', '10.0.0.11');
    expect(pass()).toBe(first);
    world.version = '3';
    expect(pass().version).not.toBe(first.version);
    expect(table().slots.map(({ node }) => node)).toEqual(['10.0.0.11', undefined, '10.0.0.11']);
  });

  test('does the first pass at once, with tables, interfaces and addresses', () => {
    const { reconciler, datapath, start } = rig();
    start();
    expect(datapath.downstreams.get('listener-0')).toEqual(['10.0.1.10:9000']);
    expect(datapath.interfaces.get('listener-0')).toEqual(['eth0#2']);
    expect(datapath.addresses).toEqual(['10.0.0.1']);
    expect(reconciler.unready()).toEqual([]);
  });

  test('does not take the addresses of Services for the host’s own, unless they are on another interface too', () => {
    const { datapath, world, start } = rig();
    world.links = [aLink(), aLink({ index: 3, name: 'kube-ipvs0', up: false })];
    world.addresses = [
      ...world.addresses,
      { family: 4, ip: '10.96.0.1', ifindex: 3 },
      { family: 4, ip: '192.0.2.7', ifindex: 3 },
      { family: 4, ip: '192.0.2.7', ifindex: 2 },
    ];
    start();
    expect(datapath.addresses).toEqual(['10.0.0.1', '192.0.2.7']);
  });

  test('spares the node for one of several interfaces, and remarks it; not for the last one', () => {
    const { reconciler, world, timer, start } = rig([aListener({ interfaces: ['eth0', 'eth9'] })]);
    start();
    expect(reconciler.unready()).toEqual([]);
    expect(reconciler.remarks()).toEqual(['attachment(eth9): interface not found: eth9 (there are: eth0)']);
    world.links = [aLink({ name: 'lan0' })];
    timer.advance(1000);
    reconciler.trigger();
    expect(reconciler.unready()).toEqual(['attachment(eth0)', 'attachment(eth9)']);
    expect(reconciler.remarks()).toEqual([]);
  });

  test('does not spare it where another listener has no other interface', () => {
    const both = aListener({ id: 0, interfaces: ['eth0', 'eth9'] });
    const { reconciler, start } = rig([both, aListener({ id: 1, interfaces: ['eth9'] })]);
    start();
    expect(reconciler.unready()).toEqual(['attachment(eth9)']);
  });

  test('remarks a listener that has no downstream at all, ready as it is', () => {
    const { reconciler, world, timer, start } = rig();
    start();
    expect(reconciler.remarks()).toEqual([]);
    world.endpoints.set('listener-0', []);
    reconciler.trigger();
    timer.advance(100);
    expect(reconciler.unready()).toEqual([]);
    expect(reconciler.remarks()).toEqual(['endpoints(listener-0): none is in use, every datagram is dropped']);
  });

  test('makes a storm of events into at most 20 passes a second, the last state among them', () => {
    const { datapath, timer, world, start } = rig();
    for (let event = 0; event < 1000; event++) {
      world.endpoints.set('listener-0', [anEndpoint(`10.0.${event >> 8}.${event & 255}`)]);
      start();
      timer.advance(1);
    }
    timer.advance(50);
    expect(datapath.applied).toBeGreaterThan(10);
    expect(datapath.applied).toBeLessThanOrEqual(21);
    expect(datapath.downstreams.get('listener-0')).toEqual(['10.0.3.231:9000']);
  });

  test('does nothing while nothing happens but look again every 30 s', () => {
    const { datapath, timer, start } = rig();
    start();
    timer.advance(29_999);
    expect(datapath.applied).toBe(1);
    timer.advance(3_600_000 - 29_999);
    expect(datapath.applied).toBe(1 + 120);
  });

  test('waits for endpoints that nobody knows yet, and says whose', () => {
    const { reconciler, datapath, world, timer, start } = rig();
    world.endpoints.clear();
    start();
    expect(datapath.downstreams.size).toBe(0);
    expect(reconciler.unready()).toEqual(['endpoints(listener-0)']);
    expect(reconciler.running()).toHaveLength(1);
    world.endpoints.set('listener-0', []);
    timer.advance(50);
    reconciler.trigger();
    expect(datapath.downstreams.get('listener-0')).toEqual([]);
    expect(reconciler.unready()).toEqual([]);
  });

  test('keeps a listener going while another one’s interface is missing, and takes it up when it appears', () => {
    const listeners = [aListener(), aListener({ id: 1, interfaces: ['eth9'] })];
    const { reconciler, datapath, world, log, timer, start } = rig(listeners);
    start();
    expect(log.lines).toEqual(['ERROR interface not found: eth9 (there are: eth0)']);
    expect(reconciler.unready()).toEqual(['attachment(eth9)']);
    expect(reconciler.running().map(({ name }) => name)).toEqual(['listener-0']);
    expect(datapath.interfaces.get('listener-0')).toEqual(['eth0#2']);

    world.links = [aLink(), aLink({ index: 7, name: 'eth9' })];
    timer.advance(1000);
    expect(datapath.interfaces.get('listener-1')).toEqual(['eth9#7']);
    expect(reconciler.unready()).toEqual([]);
    expect(log.lines.at(-1)).toBe('INFO recovered subject="attachment(eth9)"');
  });

  test('says a problem once, and retries it with a growing pause', () => {
    const { reconciler, datapath, log, timer, start } = rig();
    datapath.problems = [{ subject: 'attachment(eth0)', message: 'no' }];
    start();
    timer.advance(120_000);
    expect(log.lines).toEqual(['ERROR no']);
    expect(datapath.applied).toBeGreaterThanOrEqual(7);
    expect(datapath.applied).toBeLessThanOrEqual(9);
    expect(reconciler.running()).toEqual([]);
    datapath.problems = [];
    timer.advance(30_000);
    expect(reconciler.running()).toHaveLength(1);
  });

  test('says a problem again after five minutes, and one that comes and goes three times and then as a sum', () => {
    const { datapath, log, timer, start } = rig();
    const turn = (problems: typeof datapath.problems) => {
      datapath.problems = problems;
      start();
      timer.advance(1000);
    };
    turn([{ subject: 'attachment(eth0)', message: 'no' }]);
    timer.advance(9 * 60_000);
    expect(log.lines).toEqual(['ERROR no', 'ERROR no']);
    log.lines.length = 0;
    for (let times = 0; times < 100; times++) {
      turn([]);
      turn([{ subject: 'attachment(eth0)', message: 'no' }]);
    }
    turn([]);
    timer.advance(10 * 60_000);
    expect(log.lines.filter((line) => line === 'ERROR no')).toHaveLength(3);
    expect(log.lines.at(-1)).toBe('ERROR no more_times=97 within="5 minutes" now="over"');
  });

  test('says a problem whose words go to and fro once for each', () => {
    const { datapath, log, timer, start } = rig();
    for (let times = 0; times < 10; times++) {
      datapath.problems = [{ subject: 'attachment(eth0)', message: times % 2 === 0 ? 'busy' : 'gone' }];
      start();
      timer.advance(100);
    }
    expect(log.lines).toEqual(['ERROR busy', 'ERROR gone']);
  });

  test('keeps the last tables where the new ones cannot be built', () => {
    const { reconciler, datapath, world, log, timer, start } = rig();
    start();
    const many = Array.from({ length: 4097 }, (_, index) => anEndpoint(`10.1.${index >> 8}.${index & 255}`));
    world.endpoints.set('listener-0', many);
    timer.advance(50);
    reconciler.trigger();
    expect(datapath.downstreams.get('listener-0')).toEqual(['10.0.1.10:9000']);
    expect(log.lines.at(-1)).toBe(
      'ERROR listener "listener-0": 4097 downstreams, at most 4096 are possible; its last downstreams stay in use',
    );
  });

  test('survives a host that cannot be read', () => {
    const { reconciler, datapath, world, log, timer, start } = rig();
    start();
    const links = world.links;
    Object.defineProperty(world, 'links', {
      configurable: true,
      get: () => {
        throw new Error('rtnetlink: EAGAIN');
      },
    });
    timer.advance(50);
    reconciler.trigger();
    expect(log.lines.at(-1)).toBe('ERROR failed to reconcile: rtnetlink: EAGAIN');
    expect(datapath.downstreams.get('listener-0')).toEqual(['10.0.1.10:9000']);
    Object.defineProperty(world, 'links', { value: links });
    timer.advance(1000);
    expect(reconciler.unready()).toEqual([]);
  });

  test('gives a dual-stack bind a table of each family', () => {
    const listener = aListener({ bind: { family: 6, ip: '::', port: 5514 } });
    const { datapath, world, start } = rig([listener]);
    world.endpoints.set(listener.name, [anEndpoint('10.0.1.10'), anEndpoint('fd00::10')]);
    start();
    expect(datapath.downstreams.get(listener.name)).toEqual(['10.0.1.10:9000', '[fd00::10]:9000']);
  });

  test('after close stays still', () => {
    const { reconciler, datapath, timer, start } = rig();
    start();
    reconciler.trigger();
    reconciler.close();
    timer.advance(60_000);
    reconciler.trigger();
    expect(datapath.applied).toBe(1);
  });

  test('retries as soon after many passes that failed as after one', () => {
    const { reconciler, datapath, timer, start } = rig();
    datapath.problems = [{ subject: 'attachment(eth0)', message: 'no' }];
    start();
    for (let event = 1; event < 7; event++) {
      timer.advance(50);
      reconciler.trigger();
    }
    expect([datapath.applied, timer.now]).toEqual([7, 300]);
    datapath.problems = [];
    timer.advance(1000);
    expect([datapath.applied, reconciler.unready()]).toEqual([8, []]);
  });

  test('makes no new tables where nothing is new, also where the bind takes one of two families', () => {
    const { datapath, world, timer, start, reconciler } = rig();
    world.endpoints.set('listener-0', [anEndpoint('10.0.1.10'), anEndpoint('fd00::10')]);
    start();
    const versions = () => datapath.tables.get('listener-0')!.map(({ version }) => version);
    const before = versions();
    for (let pass = 0; pass < 3; pass++) {
      timer.advance(50);
      reconciler.trigger();
    }
    expect([datapath.applied, versions()]).toEqual([4, before]);
    world.endpoints.set('listener-0', [anEndpoint('10.0.1.11'), anEndpoint('fd00::10')]);
    timer.advance(50);
    reconciler.trigger();
    expect(versions()).not.toEqual(before);
  });
});

describe('another config', () => {
  const NAMES = ['a', 'b', 'c'];
  const all = NAMES.map((name, id) => aListener({ id, name }));
  const [a, b, c] = all as unknown as [Listener, Listener, Listener];

  /** Each listener with an endpoint of its own: 10.0.0.1 for a, and so on. */
  function started(listeners: readonly Listener[] = [a, b]) {
    const one = rig(listeners);
    for (const [index, name] of NAMES.entries()) one.world.endpoints.set(name, [anEndpoint(`10.0.0.${index + 1}`)]);
    one.start();
    const want = (...wanted: readonly Listener[]) => {
      one.reconciler.want(wanted);
      one.timer.advance(50);
    };
    const served = () => Object.fromEntries([...one.datapath.downstreams].map(([name, [first]]) => [name, first]));
    return { ...one, want, served };
  }

  test('brings a listener and takes one away, and the source hears of both', () => {
    const { want, served, datapath, source, reconciler } = started();
    expect(served()).toEqual({ a: '10.0.0.1:9000', b: '10.0.0.2:9000' });
    want(b, c);
    expect(served()).toEqual({ b: '10.0.0.2:9000', c: '10.0.0.3:9000' });
    expect(datapath.listeners).toEqual([b, c]);
    expect(source.wanted).toEqual([b, c]);
    expect(reconciler.running()).toEqual([b, c]);
    want();
    expect([datapath.listeners, reconciler.running()]).toEqual([[], []]);
  });

  test('in which listeners change places is the same to each, and makes no new table', () => {
    const { want, served, datapath } = started();
    const before = new Map(datapath.tables);
    want({ ...b, id: 0 }, { ...a, id: 1 });
    expect(served()).toEqual({ a: '10.0.0.1:9000', b: '10.0.0.2:9000' });
    expect(datapath.tables).toEqual(before);
    expect(datapath.listeners.map(({ name, id }) => [name, id])).toEqual([
      ['b', 0],
      ['a', 1],
    ]);
  });

  test('in which two swap their names gives each the other’s endpoints', () => {
    const { want, served, world } = started();
    const [ofA, ofB] = [world.endpoints.get('a')!, world.endpoints.get('b')!];
    world.endpoints.set('a', ofB).set('b', ofA);
    want({ ...a, name: 'b' }, { ...b, name: 'a' });
    expect(served()).toEqual({ b: '10.0.0.1:9000', a: '10.0.0.2:9000' });
  });

  test('in which a listener names another Service keeps its downstreams until the new ones are known', () => {
    const { want, served, world, reconciler, timer } = started([a]);
    world.endpoints.delete('a');
    want({ ...a, endpoints: { kind: 'kubernetes', namespace: 'logging', service: 'other' } });
    expect([served(), reconciler.unready()]).toEqual([{ a: '10.0.0.1:9000' }, ['endpoints(a)']]);
    world.endpoints.set('a', [anEndpoint('10.0.0.9')]);
    reconciler.trigger();
    timer.advance(50);
    expect([served(), reconciler.unready()]).toEqual([{ a: '10.0.0.9:9000' }, []]);
  });

  test('in which a listener binds both families has a table for each, of the same endpoints', () => {
    const { want, datapath } = started([a]);
    want({ ...a, bind: { family: 6, ip: '::', port: 9000 } });
    expect(datapath.tables.get('a')!.map(({ family, slots }) => [family, slots.length])).toEqual([
      [4, 1],
      [6, 0],
    ]);
  });

  test('takes along what is wrong with a listener that is gone, and says no recovery', () => {
    const { want, reconciler, log, timer } = started([a, { ...b, interfaces: ['eth9'] }]);
    expect(reconciler.unready()).toEqual(['attachment(eth9)']);
    want(a);
    expect(reconciler.unready()).toEqual([]);
    timer.advance(600_000);
    expect(log.lines).toEqual(['ERROR interface not found: eth9 (there are: eth0)']);
  });

  test('has new listeners wait from the start, and none twice', () => {
    const { want, world, reconciler } = started([a]);
    world.endpoints.delete('c');
    reconciler.want([a, c]);
    expect(reconciler.unready()).toEqual(['endpoints(c)']);
    want(a);
    expect(reconciler.unready()).toEqual([]);
  });
});
