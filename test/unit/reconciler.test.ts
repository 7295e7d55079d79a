import { describe, expect, test } from 'vitest';
import type { Endpoint, Listener } from '../../agent/model.ts';
import { Reconciler } from '../../agent/reconciler.ts';
import { FakeDatapath } from '../fake/datapath.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aLink, aListener, aLog, anEndpoint } from '../fake/words.ts';

function rig(listeners: readonly Listener[] = [aListener()]) {
  const timer = new FakeTimer();
  const datapath = new FakeDatapath();
  const log = aLog();
  const world = {
    links: [aLink()],
    addresses: [{ family: 4 as const, ip: '10.0.0.1', ifindex: 2 }],
    endpoints: new Map<string, readonly Endpoint[]>(listeners.map(({ name }) => [name, [anEndpoint('10.0.1.10')]])),
  };
  const host = { links: () => world.links, addresses: () => world.addresses };
  const source = { endpoints: ({ name }: Listener) => world.endpoints.get(name), close: () => {} };
  const reconciler = new Reconciler({ log, listeners, source, host, datapath, timer: timer.set, now: () => timer.now });
  return { timer, datapath, log, world, reconciler };
}

describe('the reconciler', () => {
  test('does the first pass at once, with tables, interfaces and addresses', () => {
    const { reconciler, datapath } = rig();
    reconciler.trigger();
    expect(datapath.downstreams.get('listener-0')).toEqual(['10.0.1.10:9000']);
    expect(datapath.interfaces.get('listener-0')).toEqual(['eth0#2']);
    expect(datapath.addresses).toEqual(['10.0.0.1']);
    expect(reconciler.unready()).toEqual([]);
  });

  test('makes a storm of events into at most 20 passes a second, the last state among them', () => {
    const { reconciler, datapath, timer, world } = rig();
    for (let event = 0; event < 1000; event++) {
      world.endpoints.set('listener-0', [anEndpoint(`10.0.${event >> 8}.${event & 255}`)]);
      reconciler.trigger();
      timer.advance(1);
    }
    timer.advance(50);
    expect(datapath.applied).toBeGreaterThan(10);
    expect(datapath.applied).toBeLessThanOrEqual(21);
    expect(datapath.downstreams.get('listener-0')).toEqual(['10.0.3.231:9000']);
  });

  test('does nothing while nothing happens', () => {
    const { reconciler, datapath, timer } = rig();
    reconciler.trigger();
    timer.advance(3_600_000);
    expect(datapath.applied).toBe(1);
  });

  test('waits for endpoints that nobody knows yet, and says whose', () => {
    const { reconciler, datapath, world, timer } = rig();
    world.endpoints.clear();
    reconciler.trigger();
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
    const { reconciler, datapath, world, log, timer } = rig(listeners);
    reconciler.trigger();
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
    const { reconciler, datapath, log, timer } = rig();
    datapath.problems = [{ subject: 'attachment(eth0)', message: 'no' }];
    reconciler.trigger();
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
    const { reconciler, datapath, log, timer } = rig();
    const turn = (problems: typeof datapath.problems) => {
      datapath.problems = problems;
      reconciler.trigger();
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
    const { reconciler, datapath, log, timer } = rig();
    for (let times = 0; times < 10; times++) {
      datapath.problems = [{ subject: 'attachment(eth0)', message: times % 2 === 0 ? 'busy' : 'gone' }];
      reconciler.trigger();
      timer.advance(100);
    }
    expect(log.lines).toEqual(['ERROR busy', 'ERROR gone']);
  });

  test('keeps the last tables where the new ones cannot be built', () => {
    const { reconciler, datapath, world, log, timer } = rig();
    reconciler.trigger();
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
    const { reconciler, datapath, world, log, timer } = rig();
    reconciler.trigger();
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
    const { reconciler, datapath, world } = rig([listener]);
    world.endpoints.set(listener.name, [anEndpoint('10.0.1.10'), anEndpoint('fd00::10')]);
    reconciler.trigger();
    expect(datapath.downstreams.get(listener.name)).toEqual(['10.0.1.10:9000', '[fd00::10]:9000']);
  });

  test('after close stays still', () => {
    const { reconciler, datapath, timer } = rig();
    reconciler.trigger();
    reconciler.trigger();
    reconciler.close();
    timer.advance(60_000);
    reconciler.trigger();
    expect(datapath.applied).toBe(1);
  });
});
