/** Health as a whole on a virtual clock: real packets, a simulated network, a reader of the log. */
import { describe, expect, test } from 'vitest';
import type { Health as HealthConfig } from '../../agent/config/load.ts';
import { endpointSet } from '../../agent/discovery/endpoint-source.ts';
import { Health } from '../../agent/health/health.ts';
import { openIcmp } from '../../agent/health/icmp.ts';
import type { Endpoint, Listener } from '../../agent/model.ts';
import { DATA_AT, FakeEchoNetwork, type Manners } from '../fake/echo-network.ts';
import { FakeTimer } from '../fake/timer.ts';
import { aListener, aLog, anEndpoint } from '../fake/words.ts';

const CONFIG: HealthConfig = {
  enabled: true,
  intervalSecs: 5,
  timeoutSecs: 2,
  protocol: 'icmp',
  failOpen: true,
  fall: 1,
  rise: 2,
};
const DUAL_STACK = { family: 6, ip: '::', port: 9000 } as const;
const INTERVAL = 5000;
const TIMEOUT = 2000;

/** Spoils one byte. */
const flip = (bytes: Buffer, at: number) => bytes.writeUInt8(bytes[at]! ^ 0x80, at);
/** What the log says at its default level. */
const said = (lines: readonly string[]) => lines.filter((line) => !line.startsWith('DEBUG'));

function rig({ config = {}, ips = ['10.0.1.10', '10.0.1.11', '10.0.1.12'], wasOut = [] }: Partial<Options> = {}) {
  const timer = new FakeTimer();
  const network = new FakeEchoNetwork(timer);
  for (const ip of ips) network.host(ip);
  const log = aLog();
  const world = {
    skewMs: 0,
    changes: 0,
    hint: (_ip: string) => {},
    /** By address, why it cannot be reached. */
    lost: new Map<string, string>(),
    reached: (_ip: string) => {},
    endpoints: ips.map((ip) => anEndpoint(ip)),
  };
  // Not random, but no two in a row alike.
  let draws = 0;
  const random = () => (draws++ * 0.37) % 1;
  const health = new Health({
    log,
    config: { ...CONFIG, ...config },
    clock: { timer: timer.set, now: () => timer.now + world.skewMs, random },
    openProber: (onHint) => {
      world.hint = (ip) => onHint(anEndpoint(ip).address, 'port_unreachable');
      return openIcmp(network.open)(onHint);
    },
    wasOut: (_listener, { ip }) => wasOut.includes(ip),
    reachability: {
      follow: () => {},
      release: () => {},
      lost: (ip) => world.lost.get(ip),
      tell: ({ onChange }) => {
        world.reached = onChange;
      },
    },
  });
  health.start(() => void world.changes++);
  const listener = aListener({ name: 'syslog', bind: DUAL_STACK });
  const inUse = (of: Listener = listener, endpoints: readonly Endpoint[] = world.endpoints) =>
    health.select(of, endpointSet(endpoints)).downstreams.map(({ address }) => address.ip);
  inUse();
  /** Milliseconds until `ip` is out of use. */
  const untilOut = (ip: string) => {
    const from = timer.now;
    while (inUse().includes(ip) && timer.now - from < 60_000) timer.advance(10);
    return timer.now - from;
  };
  return { timer, network, log, world, health, listener, inUse, untilOut };
}

interface Options {
  readonly config: Partial<HealthConfig>;
  readonly ips: readonly string[];
  /** Of them, those that an agent before this one did not use. */
  readonly wasOut: readonly string[];
}

describe('a downstream', () => {
  test('that was out before this agent is used once it answers; one that has its address later is another', () => {
    const { inUse, timer, world } = rig({ wasOut: ['10.0.1.10'] });
    const all = world.endpoints;
    expect(inUse()).toEqual(['10.0.1.11', '10.0.1.12']);
    timer.advance(2 * INTERVAL);
    expect(inUse()).toHaveLength(3);
    inUse(undefined, all.slice(1));
    expect(inUse(undefined, all)).toHaveLength(3);
  });

  test('is in use before anybody has asked it, and is asked within the first interval', () => {
    const { inUse, network, timer } = rig();
    expect(inUse()).toHaveLength(3);
    timer.advance(INTERVAL);
    for (const ip of inUse()) expect(network.asked(ip)).toBeGreaterThanOrEqual(1);
  });

  test.each([0, 1, 777, 2500, 4999])('that dies at %i ms of the interval is out within interval + timeout', (at) => {
    const { network, timer, inUse, untilOut, world } = rig();
    timer.advance(20_000 + at);
    network.host('10.0.1.11', 'dead');
    expect(untilOut('10.0.1.11')).toBeLessThanOrEqual(INTERVAL + TIMEOUT);
    expect(inUse()).toEqual(['10.0.1.10', '10.0.1.12']);
    expect(world.changes).toBe(1);
  });

  test('that was dead before it was known is out as soon', () => {
    const { network, untilOut } = rig();
    network.host('10.0.1.11', 'dead');
    expect(untilOut('10.0.1.11')).toBeLessThanOrEqual(INTERVAL + TIMEOUT);
  });

  test('is back after two answers in a row, not one', () => {
    const { network, timer, inUse, untilOut, log } = rig();
    network.host('10.0.1.11', 'dead');
    untilOut('10.0.1.11');
    const asked = network.asked('10.0.1.11');
    network.host('10.0.1.11');
    while (!inUse().includes('10.0.1.11')) timer.advance(10);
    expect(network.asked('10.0.1.11')).toBe(asked + 2);
    expect(log.lines.at(-1)).toBe(
      'INFO health recovered listener="syslog" downstream="10.0.1.11:9000" protocol="icmp" answered=2 next="in use again"',
    );
  });

  test('that answers only every other round stays out', () => {
    const { network, timer, inUse, untilOut } = rig();
    network.host('10.0.1.11', 'dead');
    untilOut('10.0.1.11');
    // A round without an answer takes three requests, one with an answer takes one.
    let alive = false;
    let requests = 0;
    network.host('10.0.1.11', {
      drops: () => {
        requests++;
        const dropped = !alive;
        if (alive || requests === 3) {
          alive = !alive;
          requests = 0;
        }
        return dropped;
      },
    });
    for (let second = 0; second < 120; second++) {
      timer.advance(1000);
      expect(inUse()).not.toContain('10.0.1.11');
    }
  });

  test('that flaps is out and in with fall 1 and rise 1, and every turn is a line', () => {
    const { network, timer, log, world } = rig({ config: { rise: 1 } });
    for (let turn = 0; turn < 5; turn++) {
      network.host('10.0.1.11', 'dead');
      timer.advance(INTERVAL + TIMEOUT);
      network.host('10.0.1.11');
      timer.advance(INTERVAL);
    }
    expect(world.changes).toBe(10);
    expect(said(log.lines).filter((line) => /health.*failed/.test(line))).toHaveLength(5);
    expect(log.lines.filter((line) => line.includes('health recovered'))).toHaveLength(5);
  });

  test('with fall 3 is out after the third failed probe, and the lines count', () => {
    const { network, timer, log, inUse } = rig({ config: { fall: 3 } });
    network.host('10.0.1.11', 'dead');
    timer.advance(2 * INTERVAL + TIMEOUT);
    expect(inUse()).toHaveLength(3);
    timer.advance(INTERVAL);
    expect(inUse()).toHaveLength(2);
    expect(log.lines.map((line) => /next="([^"]*)"/.exec(line)?.[1])).toEqual([
      'in use until 3 probes in a row have failed, 1 so far',
      'in use until 3 probes in a row have failed, 2 so far',
      'out of use until 2 probes in a row are answered',
    ]);
  });

  test('is not condemned by two lost packets of three', () => {
    const { network, timer, inUse, log, health } = rig();
    network.host('10.0.1.11', { drops: (request) => request % 3 !== 2 });
    timer.advance(60_000);
    expect(inUse()).toHaveLength(3);
    expect(log.lines).toEqual([]);
    expect(health.statistics.rounds.unanswered).toBe(0);
  });

  test('names what happened in the log: listener, downstream, protocol, cause, what follows', () => {
    const { network, timer, log } = rig();
    network.host('10.0.1.11', 'dead');
    timer.advance(60_000);
    expect(said(log.lines)).toEqual([
      'WARN health probe failed listener="syslog" downstream="10.0.1.11:9000" protocol="icmp" cause="no answer in 2 s" next="out of use until 2 probes in a row are answered"',
    ]);
  });
});

describe('an answer', () => {
  const wrong: [string, Manners][] = [
    ['with another token', { mangles: (echo) => flip(echo, DATA_AT) }],
    ['with the token cut short', { mangles: (echo) => void echo.fill(0, DATA_AT) }],
    ['with another identifier', { mangles: (echo) => flip(echo, 4) }],
    ['with another sequence number', { mangles: (echo) => flip(echo, 7) }],
    ['with another code', { mangles: (echo) => flip(echo, 1) }],
    ['from another address', { from: '10.0.1.99' }],
    ['from another downstream', { from: '10.0.1.10' }],
    ['that comes after the timeout', { delayMs: TIMEOUT + 1 }],
    ['that comes in the next round', { delayMs: INTERVAL + 100 }],
  ];

  test.each(wrong)('%s is none', (_, manners) => {
    const { network, untilOut, inUse } = rig();
    network.host('10.0.1.11', manners);
    expect(untilOut('10.0.1.11')).toBeLessThanOrEqual(INTERVAL + TIMEOUT);
    expect(inUse()).toEqual(['10.0.1.10', '10.0.1.12']);
  });

  test('with a wrong token is named as the cause', () => {
    const { network, timer, log } = rig();
    network.host('10.0.1.11', { mangles: (echo) => flip(echo, DATA_AT) });
    timer.advance(INTERVAL + TIMEOUT);
    expect(log.lines[0]).toContain('cause="none but wrong answers in 2 s"');
  });

  test.each([1, 300, 1300])('after %i ms is one', (delayMs) => {
    const { network, timer, inUse, health } = rig();
    for (const ip of inUse()) network.host(ip, { delayMs });
    timer.advance(30_000);
    expect(inUse()).toHaveLength(3);
    expect(health.statistics.rounds.unanswered).toBe(0);
    const { counts, sum } = health.statistics.roundTrips();
    const answers = counts.reduce((total, count) => total + count, 0);
    expect(answers).toBe(health.statistics.rounds.answered);
    expect(sum / answers).toBeCloseTo(delayMs / 1000);
  });

  test('that comes five times counts once', () => {
    const { network, timer, untilOut, inUse } = rig({ config: { rise: 3 } });
    network.host('10.0.1.11', 'dead');
    untilOut('10.0.1.11');
    network.host('10.0.1.11', { copies: 5 });
    timer.advance(INTERVAL);
    expect(inUse()).not.toContain('10.0.1.11');
  });

  test('that could not be heard because this process slept is not held against anybody', () => {
    const { network, timer, world, inUse, log } = rig();
    timer.advance(INTERVAL);
    const asked = network.requests.length;
    for (const ip of inUse()) network.host(ip, 'dead');
    while (network.requests.length === asked) timer.advance(1);
    // The clock jumps over the deadlines of all rounds that are under way.
    world.skewMs += 10_000;
    timer.advance(TIMEOUT - 1);
    for (const ip of inUse()) network.host(ip);
    timer.advance(20_000);
    expect(inUse()).toHaveLength(3);
    expect(log.lines).toEqual([]);
  });
});

describe('a way that is lost', () => {
  test('takes a downstream out at once, whatever its probes say, and in again when it is back', () => {
    const { timer, world, inUse, log, health } = rig();
    timer.advance(INTERVAL);
    world.lost.set('10.0.1.11', 'no route');
    world.reached('10.0.1.11');
    expect(inUse()).toEqual(['10.0.1.10', '10.0.1.12']);
    expect(world.changes).toBe(1);
    expect(health.endpoints().map(({ healthy }) => healthy)).toEqual([true, false, true]);
    expect(health.remarks()).toEqual(['health(syslog): no way to 10.0.1.11:9000 (no route)']);
    timer.advance(2 * INTERVAL);
    expect(inUse()).toEqual(['10.0.1.10', '10.0.1.12']);
    world.lost.clear();
    world.reached('10.0.1.11');
    expect(inUse()).toHaveLength(3);
    expect(said(log.lines)).toEqual([
      'WARN health path failed listener="syslog" downstream="10.0.1.11:9000" cause="no route" next="out of use until there is a way to it"',
      'INFO health path recovered listener="syslog" downstream="10.0.1.11:9000" next="in use again"',
    ]);
  });

  test('and that is back does not bring in a downstream whose probes fail', () => {
    const { timer, network, world, inUse, untilOut } = rig();
    timer.advance(INTERVAL);
    world.lost.set('10.0.1.11', 'no route');
    world.reached('10.0.1.11');
    network.host('10.0.1.11', 'dead');
    timer.advance(2 * INTERVAL);
    expect(world.changes).toBe(1);
    world.lost.clear();
    world.reached('10.0.1.11');
    expect(inUse()).toHaveLength(2);
    network.host('10.0.1.11');
    timer.advance(3 * INTERVAL);
    expect(inUse()).toHaveLength(3);
    expect(untilOut('10.0.1.99')).toBe(0);
  });

  test('of all of a family leaves all in, loudly', () => {
    const { timer, world, inUse, log, health, listener } = rig();
    timer.advance(INTERVAL);
    for (const ip of inUse()) {
      world.lost.set(ip, 'link eth0 is down');
      world.reached(ip);
    }
    expect(inUse()).toHaveLength(3);
    expect(health.failsOpen(listener)).toBe(true);
    expect(log.lines.at(-1)).toBe(
      'WARN health paths of all downstreams failed: all stay in use (fail_open) listener="syslog" family="IPv4"',
    );
    expect(health.remarks()[0]).toBe(
      'health(syslog): the paths of all IPv4 downstreams failed: all stay in use (fail_open)',
    );
  });
});

describe('hints', () => {
  test('make the next probe come at once, and are no verdict', () => {
    const { network, timer, world, inUse, health } = rig();
    timer.advance(INTERVAL);
    const asked = network.asked('10.0.1.11');
    world.hint('10.0.1.11');
    expect(network.asked('10.0.1.11')).toBe(asked + 1);
    timer.advance(1);
    expect(inUse()).toHaveLength(3);
    expect(health.statistics.hints.port_unreachable).toBe(1);
  });

  test('of a dead downstream save the rest of the interval, and stand in the cause', () => {
    const { network, timer, world, untilOut, log } = rig();
    timer.advance(INTERVAL);
    network.host('10.0.1.11', 'dead');
    world.hint('10.0.1.11');
    expect(untilOut('10.0.1.11')).toBeLessThanOrEqual(TIMEOUT);
    expect(log.lines[0]).toContain('cause="no answer in 2 s, port unreachable"');
  });

  test('that come without end do not make us flood anybody', () => {
    const { network, timer, world } = rig();
    for (let at = 0; at < 60_000; at += 10) {
      world.hint('10.0.1.11');
      world.hint('10.0.1.77');
      timer.advance(10);
    }
    expect(network.asked('10.0.1.11')).toBeLessThanOrEqual(2 * Math.ceil(60_000 / 4650) + 1);
    expect(network.asked('10.0.1.77')).toBe(0);
  });

  test('from the system’s own refusal to route are an unanswered probe with a reason', () => {
    const { network, timer, log } = rig();
    network.host('10.0.1.11', { refuses: 'Network is unreachable' });
    timer.advance(INTERVAL + TIMEOUT);
    expect(log.lines[0]).toContain('cause="no answer in 2 s, host unreachable"');
  });
});

describe('a probe that cannot leave this host', () => {
  test('says nothing about the downstream, and is one line in five minutes for all of them', () => {
    const { network, timer, log, inUse, health } = rig();
    for (const ip of inUse()) network.host(ip, { refuses: 'Operation not permitted' });
    timer.advance(299_000);
    expect(inUse()).toHaveLength(3);
    expect(health.statistics.rounds.unanswered).toBe(0);
    expect(log.lines.filter((line) => line.startsWith('WARN'))).toEqual([
      'WARN health probe failed to leave this host listener="syslog" downstream="10.0.1.10:9000" protocol="icmp" cause="Operation not permitted" next="in use, as nothing is known of it"',
    ]);
  });

  test('is said when it begins and when it is over, also a second time within a minute', () => {
    const { network, timer, log, inUse } = rig();
    for (let turn = 0; turn < 2; turn++) {
      for (const ip of inUse()) network.host(ip, { refuses: 'Operation not permitted' });
      timer.advance(INTERVAL + TIMEOUT);
      for (const ip of inUse()) network.host(ip);
      timer.advance(INTERVAL + TIMEOUT);
    }
    const over = 'INFO health probes leave this host again cause="Operation not permitted"';
    const begins = expect.stringMatching(
      /^WARN health probe failed to leave this host .* cause="Operation not permitted"/,
    );
    expect(said(log.lines)).toEqual([begins, over, begins, over]);
  });

  test('is over too when the downstreams that it concerned are gone', () => {
    const { network, timer, log, inUse } = rig();
    network.host('10.0.1.11', { refuses: 'Network is down' });
    timer.advance(INTERVAL + TIMEOUT);
    inUse(undefined, [anEndpoint('10.0.1.10')]);
    expect(said(log.lines).at(-1)).toBe('INFO health probes leave this host again cause="Network is down"');
  });

  test('brings a downstream back that was out: nothing is known of it any more', () => {
    const { network, timer, untilOut, inUse } = rig();
    network.host('10.0.1.11', 'dead');
    untilOut('10.0.1.11');
    network.host('10.0.1.11', { refuses: 'Operation not permitted' });
    timer.advance(INTERVAL + TIMEOUT);
    expect(inUse()).toHaveLength(3);
  });

  test('for want of one family leaves the other one alone', () => {
    const timer = new FakeTimer();
    const network = new FakeEchoNetwork(timer);
    network.refuses.set(6, 'Address family not supported by protocol');
    network.host('10.0.1.10');
    const log = aLog();
    const clock = { timer: timer.set, now: () => timer.now, random: () => 0.5 };
    const health = new Health({ log, config: CONFIG, clock, openProber: openIcmp(network.open) });
    const endpoints = [anEndpoint('10.0.1.10'), anEndpoint('fd00::10')];
    const listener = aListener({ bind: DUAL_STACK });
    health.select(listener, endpointSet(endpoints));
    timer.advance(30_000);
    expect(health.select(listener, endpointSet(endpoints)).downstreams).toHaveLength(2);
    expect(health.statistics.rounds.answered).toBeGreaterThan(4);
    expect(health.statistics.rounds.unsent).toBeGreaterThan(4);
    expect(log.lines[0]).toContain('cause="Address family not supported by protocol"');
    network.refuses.set(4, 'Operation not permitted');
    expect(() => openIcmp(network.open)).toThrow('Operation not permitted');
    health.close();
    expect(network.closed).toEqual([4]);
  });
});

describe('when all are down', () => {
  test('all stay in, with one warning, and the body of /readyz says so', () => {
    const { network, timer, inUse, log, health, listener } = rig();
    for (const ip of inUse()) network.host(ip, 'dead');
    timer.advance(60_000);
    expect(inUse()).toEqual(['10.0.1.10', '10.0.1.11', '10.0.1.12']);
    expect(log.lines.filter((line) => line.includes('all downstreams failed: '))).toEqual([
      'WARN health probes of all downstreams failed: all stay in use (fail_open) listener="syslog" family="IPv4"',
    ]);
    const next = said(log.lines).map((line) => /next="([^"]*)"/.exec(line)?.[1]);
    expect(next).toEqual([
      'out of use until 2 probes in a row are answered',
      'out of use until 2 probes in a row are answered',
      'in use, as the probes of all downstreams failed (fail_open)',
      undefined,
    ]);
    expect(health.remarks()).toEqual([
      'health(syslog): the probes of all IPv4 downstreams failed: all stay in use (fail_open)',
    ]);
    expect(health.failsOpen(listener)).toBe(true);
    expect(health.endpoints().map(({ healthy }) => healthy)).toEqual([false, false, false]);
  });

  test('the first that is back ends it, and receives alone', () => {
    const { network, timer, inUse, log, health, listener } = rig();
    for (const ip of inUse()) network.host(ip, 'dead');
    timer.advance(10_000);
    network.host('10.0.1.12');
    timer.advance(2 * INTERVAL);
    expect(inUse()).toEqual(['10.0.1.12']);
    expect(health.failsOpen(listener)).toBe(false);
    expect(health.remarks()).toEqual([]);
    expect(log.lines.filter((line) => line.startsWith('INFO')).map((line) => line.slice(0, 34))).toEqual([
      'INFO health recovered listener="sy',
      'INFO health fail open ended listen',
    ]);
  });

  test('and up and down again without end, is said three times in five minutes and then summed up', () => {
    const { network, timer, log } = rig({ ips: ['10.0.1.10'], config: { rise: 1 } });
    for (let turn = 0; turn < 100; turn++) {
      network.host('10.0.1.10', 'dead');
      timer.advance(INTERVAL + TIMEOUT);
      network.host('10.0.1.10');
      timer.advance(INTERVAL);
    }
    const all = log.lines.filter((line) => line.includes('all stay in use (fail_open) listener='));
    expect(all.slice(0, 3)).toEqual(Array.from({ length: 3 }, () => all[0]));
    expect(all[3]).toMatch(/more_times=\d+ within="5 minutes"/);
    expect(all.length).toBeLessThanOrEqual(3 + 4);
  });

  test('without fail_open none is left, said as plainly', () => {
    const { network, timer, inUse, log, health } = rig({ config: { failOpen: false } });
    for (const ip of inUse()) network.host(ip, 'dead');
    timer.advance(10_000);
    expect(inUse()).toEqual([]);
    expect(log.lines).toContain(
      'WARN health probes of all downstreams failed: none is in use (fail_open is off) listener="syslog" family="IPv4"',
    );
    expect(health.remarks()[0]).toContain('none is in use');
  });

  test('of one family, that family stays in: a filter on ICMPv6 alone empties nothing', () => {
    const { network, timer, inUse } = rig({ ips: ['10.0.1.10', '10.0.1.11', 'fd00::10', 'fd00::11'] });
    for (const ip of ['fd00::10', 'fd00::11', '10.0.1.11']) network.host(ip, 'dead');
    timer.advance(10_000);
    expect(inUse()).toEqual(['10.0.1.10', 'fd00::10', 'fd00::11']);
  });
});

describe('where no endpoint is ready', () => {
  const unready = (...ips: readonly string[]) => ips.map((ip) => ({ ...anEndpoint(ip), unready: true as const }));
  const ALL = ['10.0.1.10', '10.0.1.11', '10.0.1.12'];
  const IN_USE =
    'WARN no endpoint is ready: unready ones that answer health probes are in use (last_resort) listener="syslog" family="IPv4"';
  const NONE =
    'WARN no endpoint is ready, and no unready one has answered a health probe: none is in use listener="syslog" family="IPv4"';

  test('those that answered last stay in use without a gap, loudly, until one is ready again', () => {
    const { timer, inUse, log, health, listener, world } = rig();
    timer.advance(2 * INTERVAL);
    world.endpoints = unready(...ALL);
    expect(inUse()).toEqual(ALL);
    timer.advance(60_000);
    expect(inUse()).toEqual(ALL);
    expect(log.lines).toEqual([`${IN_USE} endpoints=3`]);
    expect(health.isLastResort(listener)).toBe(true);
    expect(health.remarks()).toEqual([
      'health(syslog): no IPv4 endpoint is ready: unready ones are in use (last_resort)',
    ]);
    world.endpoints = [anEndpoint('10.0.1.12'), ...unready('10.0.1.10', '10.0.1.11')];
    expect(inUse()).toEqual(['10.0.1.12']);
    expect(log.lines.at(-1)).toBe(
      'INFO endpoints are ready again, last_resort ended listener="syslog" family="IPv4" endpoints=1',
    );
    expect(health.isLastResort(listener)).toBe(false);
    expect(health.remarks()).toEqual([]);
  });

  test('one that does not answer is left out, and one that stops to answer is out as soon as any other', () => {
    const { network, timer, inUse, untilOut, world, log } = rig();
    network.host('10.0.1.12', 'dead');
    timer.advance(2 * INTERVAL);
    world.endpoints = unready(...ALL);
    expect(inUse()).toEqual(['10.0.1.10', '10.0.1.11']);
    network.host('10.0.1.10', 'dead');
    expect(untilOut('10.0.1.10')).toBeLessThanOrEqual(INTERVAL + TIMEOUT);
    expect(said(log.lines).at(-1)).toContain('WARN health probe failed listener="syslog" downstream="10.0.1.10:9000"');
    network.host('10.0.1.11', 'dead');
    expect(untilOut('10.0.1.11')).toBeLessThanOrEqual(INTERVAL + TIMEOUT);
    expect(inUse()).toEqual([]);
    expect(log.lines).toContain(`${NONE} endpoints=0`);
  });

  test('one that is first seen unready is in use when it has answered, not before', () => {
    const { timer, inUse, world, log, health } = rig({ ips: [] });
    world.endpoints = unready('10.0.1.11');
    expect(inUse()).toEqual([]);
    expect(health.remarks()).toEqual([
      'health(syslog): no IPv4 endpoint is ready, and no unready one answers: none is in use',
    ]);
    timer.advance(INTERVAL);
    expect(inUse()).toEqual(['10.0.1.11']);
    expect(log.lines).toEqual([`${NONE} endpoints=0`, `${IN_USE} endpoints=1`]);
    expect(world.changes).toBe(1);
  });

  test('one that has not answered yet is shown as it is: out of use, and not healthy', () => {
    const { network, timer, inUse, world, log, health } = rig({ ips: [], config: { fall: 2, rise: 3 } });
    const healthy = () => health.endpoints().map((one) => one.healthy);
    const nexts = () => log.lines.flatMap((line) => /next="([^"]*)"/.exec(line)?.[1] ?? []);
    network.host('10.0.1.11', 'dead');
    world.endpoints = unready('10.0.1.11');
    expect(inUse()).toEqual([]);
    expect(healthy()).toEqual([false]);
    while (nexts().length < 2) timer.advance(10);
    expect(nexts()).toEqual([
      'out of use until a probe is answered',
      'out of use until 3 probes in a row are answered',
    ]);
    expect(healthy()).toEqual([false]);
  });

  test('that a probe of one that stands by failed changes nothing, and its line says so', () => {
    const { network, timer, inUse, world, log } = rig({ config: { fall: 2 } });
    world.endpoints = [anEndpoint('10.0.1.10'), ...unready('10.0.1.11')];
    network.host('10.0.1.11', 'dead');
    inUse();
    timer.advance(2 * INTERVAL);
    const lines = log.lines.filter((line) => line.includes('health probe failed'));
    expect(lines.length).toBeGreaterThan(0);
    for (const line of lines) expect(line).toMatch(/^DEBUG .*next="out of use, as it is not ready and others are"/);
  });

  test('an end is told as it is: no last resort ended that never began, and ready ones that are down are ready', () => {
    const { network, timer, inUse, world, log } = rig({ ips: ['10.0.1.10'], config: { failOpen: false } });
    network.host('10.0.1.10', 'dead');
    timer.advance(2 * INTERVAL);
    world.endpoints = unready('10.0.1.10');
    inUse();
    expect(log.lines.at(-1)).toBe(`${NONE} endpoints=0`);
    world.endpoints = [anEndpoint('10.0.1.10')];
    expect(inUse()).toEqual([]);
    expect(log.lines).toContain('INFO endpoints are ready again listener="syslog" family="IPv4" endpoints=0');
    world.endpoints = unready('10.0.1.10');
    inUse();
    world.endpoints = [];
    inUse();
    expect(log.lines.at(-1)).toBe('INFO no endpoint is left listener="syslog" family="IPv4" endpoints=0');
  });

  test('a last resort that ends for want of endpoints is said to have ended', () => {
    const { timer, inUse, world, log } = rig();
    timer.advance(2 * INTERVAL);
    world.endpoints = unready(...ALL);
    inUse();
    world.endpoints = [];
    inUse();
    expect(log.lines.at(-1)).toBe(
      'INFO no endpoint is left, last_resort ended listener="syslog" family="IPv4" endpoints=0',
    );
  });

  test('one that stood by unready while others were ready is known to answer when they go', () => {
    const { network, timer, inUse, world, log, health } = rig();
    world.endpoints = [anEndpoint('10.0.1.10'), ...unready('10.0.1.11', '10.0.1.12')];
    network.host('10.0.1.12', 'dead');
    inUse();
    timer.advance(3 * INTERVAL);
    expect(inUse()).toEqual(['10.0.1.10']);
    // Whether it answers is nobody's business yet.
    expect(said(log.lines)).toEqual([]);
    expect(health.endpoints().map(({ endpoint }) => endpoint.address.ip)).toEqual(['10.0.1.10']);
    expect(world.changes).toBe(0);
    world.endpoints = unready('10.0.1.11', '10.0.1.12');
    expect(inUse()).toEqual(['10.0.1.11']);
    expect(health.endpoints().map(({ endpoint, healthy }) => `${endpoint.address.ip} ${healthy}`)).toEqual([
      '10.0.1.11 true',
      '10.0.1.12 false',
    ]);
  });

  test('nothing fails open for those that do not answer', () => {
    const { network, timer, inUse, world } = rig();
    for (const ip of ALL) network.host(ip, 'dead');
    timer.advance(2 * INTERVAL);
    expect(inUse()).toEqual(ALL);
    world.endpoints = unready(...ALL);
    expect(inUse()).toEqual([]);
  });

  test('nobody is in use where this host cannot ask', () => {
    const { network, timer, inUse, world } = rig({ ips: ['10.0.1.11'] });
    timer.advance(INTERVAL);
    world.endpoints = unready('10.0.1.11');
    expect(inUse()).toEqual(['10.0.1.11']);
    network.host('10.0.1.11', { refuses: 'Operation not permitted' });
    timer.advance(INTERVAL + TIMEOUT);
    expect(inUse()).toEqual([]);
  });

  test('the same downstreams are the same list, so that no table is built anew', () => {
    const { timer, health, listener } = rig();
    const endpoints = [anEndpoint('10.0.1.10'), ...unready('10.0.1.11', '10.0.1.12')];
    const { downstreams } = health.select(listener, endpointSet(endpoints));
    timer.advance(2 * INTERVAL);
    expect(health.select(listener, endpointSet(endpoints)).downstreams).toBe(downstreams);
    expect(health.select(listener, endpointSet([...endpoints])).downstreams).toBe(downstreams);
  });
});

describe('listeners and discovery', () => {
  test('two listeners with one downstream share its probes, and each hears of it', () => {
    const { network, timer, inUse, log, world } = rig({ ips: ['10.0.1.10', '10.0.1.11'] });
    const statsd = aListener({ id: 1, name: 'statsd' });
    const others = [anEndpoint('10.0.1.11', 9125), anEndpoint('10.0.1.12', 9125)];
    network.host('10.0.1.12');
    inUse(statsd, others);
    timer.advance(50_000);
    expect(network.asked('10.0.1.11')).toBeLessThanOrEqual(12);
    network.host('10.0.1.11', 'dead');
    timer.advance(INTERVAL + TIMEOUT);
    expect(inUse()).toEqual(['10.0.1.10']);
    expect(inUse(statsd, others)).toEqual(['10.0.1.12']);
    expect(world.changes).toBe(1);
    const failures = log.lines.filter((line) => line.startsWith('WARN'));
    expect(failures.map((line) => /listener="(\w+)" downstream="([^"]+)"/.exec(line)?.slice(1))).toEqual([
      ['syslog', '10.0.1.11:9000'],
      ['statsd', '10.0.1.11:9125'],
    ]);
  });

  test('what is known of an endpoint survives every update that still has it', () => {
    const { network, timer, untilOut, inUse } = rig();
    network.host('10.0.1.11', 'dead');
    untilOut('10.0.1.11');
    for (let update = 0; update < 100; update++) {
      const endpoints = [
        anEndpoint(`10.0.9.${update}`),
        anEndpoint('10.0.1.11', 9000, 1 + update),
        anEndpoint('10.0.1.10'),
      ];
      expect(inUse(undefined, endpoints)).toEqual([`10.0.9.${update}`, '10.0.1.10']);
      timer.advance(37);
    }
  });

  test('an address that another pod got is a new downstream', () => {
    const { network, timer, health } = rig({ ips: [] });
    const listener = aListener({ endpoints: { kind: 'kubernetes', namespace: 'logging', service: 'vector' } });
    const pods = (name: string) => [
      { ...anEndpoint('10.0.1.11'), name },
      { ...anEndpoint('10.0.1.12'), name: 'vector-9' },
    ];
    const inUse = (name: string) =>
      health.select(listener, endpointSet(pods(name))).downstreams.map((pod) => (pod as Endpoint).name);
    network.host('10.0.1.11', 'dead');
    network.host('10.0.1.12');
    inUse('vector-1');
    timer.advance(INTERVAL + TIMEOUT);
    expect(inUse('vector-1')).toEqual(['vector-9']);
    network.host('10.0.1.11');
    expect(inUse('vector-2')).toEqual(['vector-2', 'vector-9']);
    // And what the dead one would still have been asked is not asked any more.
    const asked = network.asked('10.0.1.11');
    timer.advance(2 * INTERVAL);
    expect(network.asked('10.0.1.11') - asked).toBeLessThanOrEqual(3);
  });

  test('an endpoint that is gone is asked nothing more', () => {
    const { network, timer, inUse } = rig();
    inUse(undefined, [anEndpoint('10.0.1.10')]);
    const asked = network.asked('10.0.1.11');
    timer.advance(60_000);
    expect(network.asked('10.0.1.11')).toBe(asked);
  });

  test('after close nothing is sent', () => {
    const { network, timer, health } = rig();
    timer.advance(INTERVAL);
    health.close();
    const { length } = network.requests;
    timer.advance(60_000);
    expect(network.requests).toHaveLength(length);
    expect(network.closed).toEqual([4, 6]);
  });
});

describe('a thousand downstreams', () => {
  const ips = Array.from({ length: 1000 }, (_, index) => `10.${1 + (index >> 8)}.0.${index & 255}`);

  test('are asked evenly from the first second on, each at least once an interval', () => {
    const { network, timer } = rig({ ips });
    timer.advance(3 * INTERVAL);
    const perTick = new Array<number>((3 * INTERVAL) / 100).fill(0);
    for (const { at } of network.requests) perTick[Math.min(Math.floor(at / 100), perTick.length - 1)]!++;
    // 20 to 22 each on the average.
    expect(Math.max(...perTick)).toBeLessThanOrEqual(45);
    expect(Math.min(...perTick)).toBeGreaterThanOrEqual(8);
    for (const ip of ips) {
      const times = network.requests.filter((request) => request.ip === ip).map(({ at }) => at);
      expect(times.length).toBeGreaterThanOrEqual(3);
      for (const [index, at] of times.entries()) expect(at - (times[index - 1] ?? 0)).toBeLessThanOrEqual(INTERVAL);
    }
  });

  test('that all die are all out of use, then all in, within interval + timeout', () => {
    const { network, timer, inUse, log } = rig({ ips });
    timer.advance(INTERVAL);
    for (const ip of ips) network.host(ip, 'dead');
    timer.advance(INTERVAL / 2);
    expect(inUse().length).toBeLessThan(1000);
    timer.advance(INTERVAL / 2 + TIMEOUT);
    expect(inUse()).toHaveLength(1000);
    expect(log.lines.filter((line) => line.includes('(fail_open) listener='))).toHaveLength(1);
  });
});

describe('the listeners that are kept', () => {
  test('are all that anything is known of: targets, remarks and what lasts go with the others', () => {
    const { network, timer, inUse, log, health, listener } = rig({ ips: ['10.0.1.10'] });
    const other = aListener({ id: 1, name: 'statsd' });
    health.keep([listener, other]);
    network.host('10.0.1.20');
    inUse(other, [anEndpoint('10.0.1.20')]);
    network.host('10.0.1.10', 'dead');
    timer.advance(2 * INTERVAL);
    expect(health.remarks()).toHaveLength(1);
    expect(health.failsOpen(listener)).toBe(true);
    health.keep([other]);
    const asked = network.asked('10.0.1.10');
    const lines = log.lines.length;
    timer.advance(900_000);
    expect(network.asked('10.0.1.10')).toBe(asked);
    expect(network.asked('10.0.1.20')).toBeGreaterThan(100);
    expect([health.remarks(), health.failsOpen(listener), log.lines.length]).toEqual([[], false, lines]);
    expect(health.listeners()).toEqual([other]);
    expect(health.endpoints().map((one) => one.listener.name)).toEqual(['statsd']);
  });

  test('that share a target with one that is gone go on with what is known of it', () => {
    const { network, inUse, untilOut, health, listener } = rig();
    const other = aListener({ id: 1, name: 'statsd' });
    health.keep([listener, other]);
    const shared = [anEndpoint('10.0.1.11'), anEndpoint('10.0.1.12')];
    inUse(other, shared);
    network.host('10.0.1.11', 'dead');
    untilOut('10.0.1.11');
    health.keep([other]);
    expect(inUse(other, shared)).toEqual(['10.0.1.12']);
  });

  test('are known by their names: another place is no news, and another name is another listener', () => {
    const { network, inUse, untilOut, listener, health, world } = rig();
    network.host('10.0.1.11', 'dead');
    untilOut('10.0.1.11');
    const set = endpointSet(world.endpoints);
    const { version } = health.select(listener, set);
    expect(health.select({ ...listener, id: 7 }, set).version).toBe(version);
    expect(inUse({ ...listener, id: 7 })).toEqual(['10.0.1.10', '10.0.1.12']);
  });
});

describe('a Service that goes dark', () => {
  /** How often anything looks at an endpoint while all of so many go down, and notices of their neighbours come. */
  function looks(count: number): number {
    const { network, timer, inUse, world } = rig({ ips: [] });
    let reads = 0;
    const endpoints = Array.from({ length: count }, (_, index): Endpoint => {
      const { address, weight } = anEndpoint(`10.1.${index >> 8}.${index & 255}`);
      return {
        weight,
        get address() {
          reads++;
          return address;
        },
      };
    });
    for (const { address } of endpoints) network.host(address.ip);
    inUse(undefined, endpoints);
    timer.advance(INTERVAL);
    const ips = endpoints.map(({ address }) => address.ip);
    for (const ip of ips) network.host(ip, 'dead');
    reads = 0;
    for (const ip of ips) world.hint(ip);
    timer.advance(INTERVAL + TIMEOUT);
    expect(world.changes).toBeGreaterThanOrEqual(count);
    const all = reads;
    expect(inUse(undefined, endpoints)).toHaveLength(count);
    return all;
  }

  test('costs each endpoint as much as if it were alone', () => {
    const [few, many] = [looks(50) / 50, looks(200) / 200];
    expect(few).toBeGreaterThan(0);
    expect(many).toBeLessThanOrEqual(1.5 * few);
  });
});
