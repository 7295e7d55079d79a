/** Health as the rest of the agent sees it: the reconciler's tables, the metrics. */
import { Registry } from 'prom-client';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { SocketAddress } from '../../agent/address.ts';
import { endpointSet } from '../../agent/discovery/endpoint-source.ts';
import { FollowedHealth } from '../../agent/health/followed-health.ts';
import { Health } from '../../agent/health/health.ts';
import { openIcmp } from '../../agent/health/icmp.ts';
import type { Listener } from '../../agent/model.ts';
import { registerHealth } from '../../agent/observe/health.ts';
import { Reconciler } from '../../agent/reconciler.ts';
import { FakeDatapath } from '../fake/datapath.ts';
import { FakeEchoNetwork } from '../fake/echo-network.ts';
import { FakeSource } from '../fake/source.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aLink, aListener, aLog, anEndpoint } from '../fake/words.ts';

const CONFIG = { intervalSecs: 5, timeoutSecs: 2, protocol: 'icmp', failOpen: true, fall: 1, rise: 2 } as const;

function rig(enabled = true) {
  const timer = new FakeTimer();
  const network = new FakeEchoNetwork(timer);
  const log = aLog();
  const health = new Health({
    log,
    config: { ...CONFIG, enabled },
    clock: { timer: timer.set, now: () => timer.now, random: () => 0.5 },
    ...(enabled && { openProber: openIcmp(network.open) }),
  });
  const listener = aListener({ name: 'syslog' });
  const endpoints = ['10.0.1.10', '10.0.1.11', 'fd00::10'].map((ip) => anEndpoint(ip));
  const datapath = new FakeDatapath();
  const reconciler = new Reconciler({
    log,
    source: new FakeSource([['syslog', endpoints]]),
    health,
    host: { links: () => [aLink()], addresses: () => [] },
    datapath,
    timer: timer.set,
  });
  health.start(() => reconciler.trigger());
  reconciler.want([listener]);
  const registry = new Registry();
  registerHealth(registry, health);
  return { timer, network, health, datapath, registry, listener };
}

describe('the reconciler', () => {
  test('takes a dead downstream out of the table and back, and asks no family that the bind does not take', () => {
    const { timer, network, datapath } = rig();
    const inTable = () => datapath.downstreams.get('syslog');
    expect(inTable()).toEqual(['10.0.1.10:9000', '10.0.1.11:9000']);
    network.host('10.0.1.11', 'dead');
    timer.advance(7000);
    expect(inTable()).toEqual(['10.0.1.10:9000']);
    network.host('10.0.1.11');
    timer.advance(10_000);
    expect(inTable()).toEqual(['10.0.1.10:9000', '10.0.1.11:9000']);
    expect(network.asked('fd00::10')).toBe(0);
  });
});

describe('the metrics', () => {
  test('show every endpoint, also the one that is out, and what the probes came to', async () => {
    const { timer, network, registry } = rig();
    network.host('10.0.1.10', { delayMs: 3 });
    network.host('10.0.1.11', 'dead');
    timer.advance(7000);
    const text = await registry.metrics();
    expect(text).toContain('udp_fanout_downstream_health{listener="syslog",endpoint="10.0.1.10:9000"} 1');
    expect(text).toContain('udp_fanout_downstream_health{listener="syslog",endpoint="10.0.1.11:9000"} 0');
    expect(text).toContain('udp_fanout_health_fail_open{listener="syslog"} 0');
    expect(text).toContain('udp_fanout_health_last_resort{listener="syslog"} 0');
    expect(text).toContain('udp_fanout_health_probes_total{outcome="answered"} 2');
    expect(text).toContain('udp_fanout_health_probes_total{outcome="unanswered"} 1');
    expect(text).toContain('udp_fanout_health_probes_total{outcome="unsent"} 0');
    expect(text).toContain('udp_fanout_health_hints_total{hint="port_unreachable"} 0');
    expect(text).toContain('# TYPE udp_fanout_health_round_trip_seconds histogram');
    expect(text).toContain('udp_fanout_health_round_trip_seconds_bucket{le="0.002"} 0');
    expect(text).toContain('udp_fanout_health_round_trip_seconds_bucket{le="0.005"} 2');
    expect(text).toContain('udp_fanout_health_round_trip_seconds_bucket{le="+Inf"} 2');
    expect(text).toContain('udp_fanout_health_round_trip_seconds_sum 0.006');
    expect(text).toContain('udp_fanout_health_round_trip_seconds_count 2');
    const json = (await registry.getMetricsAsJSON()).find(
      ({ name }) => name === 'udp_fanout_health_round_trip_seconds',
    );
    expect(json?.type).toBe('histogram');
  });

  test('say 0 for all of them under fail open, which shows by itself', async () => {
    const { timer, network, registry, health, listener } = rig();
    for (const ip of ['10.0.1.10', '10.0.1.11']) network.host(ip, 'dead');
    timer.advance(7000);
    const text = await registry.metrics();
    expect(text.match(/udp_fanout_downstream_health\{.*\} 0/g)).toHaveLength(2);
    expect(text).toContain('udp_fanout_health_fail_open{listener="syslog"} 1');
    expect(health.failsOpen(listener)).toBe(true);
  });

  test('without health say 1 for all, and nothing is asked', async () => {
    const { timer, network, registry } = rig(false);
    for (const ip of ['10.0.1.10', '10.0.1.11']) network.host(ip, 'dead');
    timer.advance(60_000);
    expect((await registry.metrics()).match(/udp_fanout_downstream_health\{.*\} 1/g)).toHaveLength(2);
    expect(network.requests).toEqual([]);
  });
});

describe('another config', () => {
  test('begins by what the old one knew, and by what an agent before knew of listeners that had no endpoints yet', async () => {
    const { timer } = rig();
    const part = { timer: timer.set, ticker: timer.set, guard: <T>(task: T) => task, onError: () => {} };
    const config = { ...CONFIG, enabled: true, protocol: 'udp_echo' } as const;
    const wasOut = (_: Listener, { ip }: SocketAddress) => ip.endsWith('0');
    const health = await FollowedHealth.open({ config, log: aLog(), reachability: undefined, wasOut, ...part });
    onTestFinished(() => health.close());
    const [early, late] = ['early', 'late'].map((name) => aListener({ name })) as [Listener, Listener];
    const inUse = (listener: Listener, ...ips: string[]) =>
      health
        .select(listener, endpointSet(ips.map((ip) => anEndpoint(ip))))
        .downstreams.map(({ address }) => address.ip);
    expect(inUse(early, '127.0.1.10', '127.0.1.11')).toEqual(['127.0.1.11']);
    await health.follow({ ...config, intervalSecs: 7 });
    expect(inUse(early, '127.0.1.10', '127.0.1.11')).toEqual(['127.0.1.11']);
    expect(inUse(late, '127.0.1.20', '127.0.1.21')).toEqual(['127.0.1.21']);
    // An address that comes again is another one's.
    expect(inUse(early, '127.0.1.11')).toEqual(['127.0.1.11']);
    expect(inUse(early, '127.0.1.10', '127.0.1.11')).toEqual(['127.0.1.10', '127.0.1.11']);
  });
});
