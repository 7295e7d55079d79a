/** The metrics as a scrape shows them: series come and go with the listeners, and nothing is asked for in between. */
import { expect, test } from 'vitest';
import type { ListenerCounters } from '../../agent/datapath/datapath.ts';
import { Statistics } from '../../agent/health/statistics.ts';
import type { Listener } from '../../agent/model.ts';
import { openMetrics } from '../../agent/observe/metrics.ts';
import { aListener } from '../fake/words.ts';

const [a, b] = ['a', 'b'].map((name, id) => aListener({ id, name })) as [Listener, Listener];

function counted(listener: Listener): ListenerCounters {
  const numbers = { received: 3, forwarded: 2, bytesReceived: 30, bytesForwarded: 20 };
  const dropped = new Map([['no_downstream', 1]]);
  const downstreams = new Map([[`10.0.0.${listener.id}:9000`, 2]]);
  return {
    listener,
    mode: 'tc_ebpf',
    ...numbers,
    passed: new Map(),
    torn: new Map(),
    toSafetyNet: new Map(),
    dropped,
    downstreams,
    gone: new Map([['10.0.1.1:9000', 4]]),
  };
}

function rig() {
  const world = { listeners: [a, b] as readonly Listener[], errors: new Map<string, number>() };
  const registry = openMetrics({
    version: '1',
    counters: () => world.listeners.map(counted),
    egressDrops: () => new Map([['veth10', 5]]),
    reload: () => ({ successful: true, at: 1 }),
    unready: () => [],
    internalErrors: () => world.errors,
    discovery: () => [],
    health: {
      listeners: () => world.listeners,
      endpoints: () => [],
      failsOpen: () => false,
      isLastResort: () => false,
      statistics: new Statistics(),
    },
  });
  return { world, scrape: () => registry.metrics() };
}

test('a listener that is gone has no series, and a new one has', async () => {
  const { world, scrape } = rig();
  const of = (text: string, name: string) => text.split('\n').filter((line) => line.includes(`listener="${name}"`));
  const first = await scrape();
  expect(of(first, 'a').length).toBeGreaterThan(8);
  expect(of(first, 'a')).toHaveLength(of(first, 'b').length);
  expect(first).toContain('udp_fanout_health_fail_open{listener="a"} 0');
  const c = aListener({ id: 0, name: 'c' });
  world.listeners = [c, b];
  const second = await scrape();
  expect(of(second, 'a')).toEqual([]);
  expect(of(second, 'c')).toHaveLength(of(first, 'a').length);
  expect(of(second, 'b')).toEqual(of(first, 'b'));
});

test('downstreams that have left keep their series and are not among the active ones', async () => {
  const text = await rig().scrape();
  expect(text).toContain('udp_fanout_downstream_packets_total{listener="a",endpoint="10.0.0.0:9000"} 2');
  expect(text).toContain('udp_fanout_downstream_packets_total{listener="a",endpoint="10.0.1.1:9000"} 4');
  expect(text).toContain('udp_fanout_downstream_active{listener="a"} 1');
});

test('what is dropped on the way out is shown by interface', async () => {
  expect(await rig().scrape()).toContain('udp_fanout_egress_drops_total{interface="veth10"} 5');
});

test('errors of the agent itself are counted by where they came up', async () => {
  const { world, scrape } = rig();
  expect(await scrape()).toContain('# TYPE udp_fanout_internal_errors_total counter');
  world.errors = new Map([['losses', 2]]);
  expect(await scrape()).toContain('udp_fanout_internal_errors_total{where="losses"} 2');
});
