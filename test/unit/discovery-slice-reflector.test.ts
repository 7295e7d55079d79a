/** The stream of one Service through everything an API server does, on a clock that stands still. */
import { describe, expect, test } from 'vitest';
import { ApiFailure, CAUSES } from '../../agent/discovery/failure.ts';
import { anEndpoint, aSlice, aTerminating } from '../../lab/api/slices.ts';
import type { MemoryApi, Misfortune } from '../fake/api/memory.ts';
import { type StreamRig, streamRig } from '../fake/api/rig.ts';

const NS = 'logging';

async function following(...ips: readonly string[]): Promise<StreamRig> {
  const rig = streamRig({ prepare: ({ store }) => store.put(NS, aSlice('a', ips)) });
  await rig.pass(0);
  return rig;
}

/** As `following`, of a real server in a cluster where nothing changes. */
const quiet = () => streamRig({ bookmarks: 'newer', prepare: ({ store }) => store.put(NS, aSlice('a', ['10.0.0.1'])) });

const always = (misfortune: Misfortune) => (api: MemoryApi) => {
  api.listAlways = misfortune;
};
const said = ({ log }: StreamRig) => log.lines.filter((line) => !line.startsWith('DEBUG'));
const warnings = ({ log }: StreamRig) => log.lines.filter((line) => line.startsWith('WARN'));

describe('in good times', () => {
  test('knows nothing before the first list, and one request each is enough', async () => {
    const rig = streamRig({ prepare: ({ store }) => store.put(NS, aSlice('a', ['10.0.0.1'])) });
    expect(rig.endpoints()).toBeUndefined();
    await rig.pass(0);
    expect(rig.endpoints()).toEqual(['10.0.0.1:9000']);
    expect([rig.api.lists.length, rig.api.watches, rig.changes()]).toEqual([1, 1, 1]);
    expect(rig.log.lines).toEqual([]);
  });

  test('follows slices that come, change, lose an endpoint and go', async () => {
    const rig = await following('10.0.0.1');
    rig.api.store.put(NS, aSlice('b', ['10.0.0.2']));
    expect(rig.endpoints()).toEqual(['10.0.0.1:9000', '10.0.0.2:9000']);
    rig.api.store.put(NS, aSlice('b', [aTerminating('10.0.0.2'), '10.0.0.3']));
    expect(rig.endpoints()).toEqual(['10.0.0.1:9000', '10.0.0.3:9000']);
    rig.api.store.delete(NS, 'a');
    expect(rig.endpoints()).toEqual(['10.0.0.3:9000']);
    expect(rig.changes()).toBe(4);
  });

  test('runs for a day on one list: watches end in good order, bookmarks come', async () => {
    const rig = await following('10.0.0.1');
    for (let minute = 0; minute < 24 * 60; minute++) {
      await rig.pass(60_000, 30_000);
      if (minute % 8 === 7) rig.api.end();
    }
    expect(rig.api.lists).toHaveLength(1);
    expect(rig.api.watches).toBeGreaterThan(160);
    rig.api.store.put(NS, aSlice('a', ['10.0.0.2']));
    expect(rig.endpoints()).toEqual(['10.0.0.2:9000']);
    expect(rig.log.lines).toEqual([]);
  });

  test('goes on from its last bookmark, not from its last event', async () => {
    const rig = await following('10.0.0.1');
    await rig.pass(30_000, 1000);
    rig.api.store.compact();
    rig.api.bookmark();
    rig.api.end();
    await rig.pass(100);
    expect(rig.api.lists).toHaveLength(1);
    expect(rig.api.isWatched).toBe(true);
  });
});

describe('in a quiet cluster, where bookmarks have nothing new to say', () => {
  test('an hour passes without a list after the first, without a line, and without a moment between two watches', async () => {
    const rig = quiet();
    for (let second = 0; second < 3600; second++) {
      await rig.pass(1000, 1000);
      expect(rig.api.standing).toBe(1);
      expect(rig.stream.status()).toMatchObject({ connected: true, relists: 0 });
      expect(rig.stream.status().ageSeconds).toBeLessThanOrEqual(100);
    }
    expect(rig.api.lists).toHaveLength(1);
    expect(rig.api.watches).toBe(1 + 36);
    expect(rig.log.lines).toEqual([]);
    expect(Object.values(rig.stream.status().errors)).toEqual(CAUSES.map(() => 0));
    rig.api.store.put(NS, aSlice('a', ['10.0.0.2']));
    expect(rig.endpoints()).toEqual(['10.0.0.2:9000']);
  });

  test('what others change moves the version on, and the history may be forgotten', async () => {
    const rig = quiet();
    for (let minute = 0; minute < 60; minute++) {
      await rig.pass(60_000, 1000);
      if (minute % 7 === 0)
        for (let other = 0; other < 200; other++) rig.api.store.put('elsewhere', aSlice(`x${other}`, []));
      if (minute % 7 === 5) rig.api.store.compact();
    }
    expect(rig.api.lists).toHaveLength(1);
    expect(rig.log.lines).toEqual([]);
  });

  test('the successor of a silent watch stands before that one is dropped', async () => {
    const rig = quiet();
    const counts = new Set<number>();
    const { api } = rig;
    const { watch } = api;
    api.watch = (selection, options, signal) => {
      const onOpen = () => {
        counts.add(api.standing);
        options.onOpen();
      };
      return watch.call(api, selection, { ...options, onOpen }, signal);
    };
    await rig.pass(350_000, 1000);
    expect([...counts]).toEqual([0, 1]);
    expect(api.watches).toBe(4);
  });
});

describe('faults', () => {
  test.each(['reset', 'gone'] as const)('%s: a new list finds what was missed, deletions too', async (reason) => {
    const rig = await following('10.0.0.1');
    rig.api.store.put(NS, aSlice('b', ['10.0.0.2']));
    rig.api.break(reason);
    await rig.pass(0);
    rig.api.store.delete(NS, 'b');
    rig.api.store.put(NS, aSlice('a', ['10.0.0.3']));
    rig.api.store.compact();
    expect(rig.endpoints()).toEqual(['10.0.0.1:9000', '10.0.0.2:9000']);
    await rig.pass(500);
    expect(rig.endpoints()).toEqual(['10.0.0.3:9000']);
    expect(rig.api.lists).toHaveLength(2);
    expect(rig.stream.status()).toMatchObject({ connected: true, relists: 1 });
  });

  test('a watch whose connection died silently: what it did not tell comes with its successor, within 100 s', async () => {
    const rig = quiet();
    await rig.pass(50_000, 1000);
    rig.api.deaden();
    rig.api.store.put(NS, aSlice('a', ['10.0.0.2']));
    rig.api.store.put(NS, aSlice('b', ['10.0.0.3']));
    rig.api.store.delete(NS, 'a');
    await rig.pass(49_000, 1000);
    expect(rig.endpoints()).toEqual(['10.0.0.1:9000']);
    await rig.pass(2000);
    expect(rig.endpoints()).toEqual(['10.0.0.3:9000']);
    expect([rig.api.lists.length, rig.api.standing]).toEqual([1, 1]);
    expect(rig.log.lines).toEqual([]);
  });

  test('a successor that gets no answer is what makes a silent watch a stalled one', async () => {
    const rig = quiet();
    await rig.pass(50_000, 1000);
    rig.api.watchFails = ['hang'];
    rig.api.deaden();
    rig.api.store.put(NS, aSlice('a', ['10.0.0.2']));
    await rig.pass(79_000, 1000);
    expect(rig.stream.status()).toMatchObject({ connected: true, errors: { stalled: 0 } });
    await rig.pass(2000);
    expect(rig.endpoints()).toEqual(['10.0.0.2:9000']);
    expect(rig.stream.status()).toMatchObject({ connected: true, relists: 1, errors: { stalled: 1 } });
    expect(rig.log.lines).toEqual([
      'WARN failed to watch EndpointSlices: no answer for 30 s; the last known endpoints stay in use ' +
        'namespace="logging" service="receivers" cause="stalled"',
      'INFO following EndpointSlices again namespace="logging" service="receivers"',
    ]);
  });

  test.each(['unreachable', 'unauthorized', 'gone', 'throttled'] as const)(
    'a successor that is refused (%s) leads to a list, and is said',
    async (cause) => {
      const rig = quiet();
      await rig.pass(99_000, 1000);
      rig.api.watchFails = [new ApiFailure(cause, 'no')];
      await rig.pass(3000);
      expect(rig.stream.status()).toMatchObject({ connected: true, relists: 1, errors: { [cause]: 1 } });
      expect([rig.api.standing, warnings(rig).length]).toEqual([1, 1]);
    },
  );

  test('a silent watch that speaks before its successor stands is kept, and nothing is told twice', async () => {
    const rig = quiet();
    await rig.pass(99_000, 1000);
    rig.api.watchFails = ['hang'];
    await rig.pass(10_000, 1000);
    expect([rig.api.watches, rig.api.standing]).toEqual([2, 1]);
    for (const last of [2, 3, 4]) rig.api.store.put(NS, aSlice('a', [`10.0.0.${last}`]));
    expect(rig.endpoints()).toEqual(['10.0.0.4:9000']);
    expect(rig.changes()).toBe(4);
    await rig.pass(60_000, 1000);
    expect([rig.api.watches, rig.api.standing, rig.api.lists.length]).toEqual([2, 1, 1]);
    expect(rig.log.lines).toEqual([]);
  });

  test('a server that went back to a past in which our version is yet to come is found out within twelve hours', async () => {
    const rig = quiet();
    await rig.pass(1000);
    rig.api.store.restore(NS, [aSlice('a', ['10.0.0.7'])]);
    await rig.pass(6 * 3_600_000, 10_000);
    expect(rig.endpoints()).toEqual(['10.0.0.1:9000']);
    await rig.pass(6 * 3_600_000, 10_000);
    expect(rig.endpoints()).toEqual(['10.0.0.7:9000']);
    expect([rig.api.lists.length, rig.log.lines.length]).toEqual([2, 0]);
  });

  test('a list that hangs is given up after 30 s, one at a time', async () => {
    const rig = streamRig({ prepare: always('hang') });
    await rig.pass(300_000, 1000);
    expect(rig.api.mostListsInFlight).toBe(1);
    expect(rig.api.lists.length).toBeGreaterThan(4);
    expect(rig.stream.status().errors.timeout).toBeGreaterThan(4);
    rig.api.listAlways = undefined;
    await rig.pass(70_000, 1000);
    expect(rig.endpoints()).toEqual([]);
  });

  const causes = CAUSES.map((cause): [string, Misfortune] => [cause, new ApiFailure(cause, 'no')]);
  test.each<[string, Misfortune]>([...causes, ['hang', 'hang']])(
    'lists that always fail (%s) are at most ten a minute for an hour',
    async (_, misfortune) => {
      const rig = streamRig({ prepare: always(misfortune) });
      await rig.pass(3_600_000, 500);
      expect(mostInAMinute(rig.api.lists)).toBeLessThanOrEqual(10);
      expect(rig.api.lists.length).toBeGreaterThan(60);
      expect(warnings(rig).length).toBeLessThanOrEqual(13);
    },
    60_000,
  );

  test.each([0, 1000, 10_100, 31_000])(
    'watches that break after %i ms lead to at most ten lists a minute',
    async (life) => {
      const rig = await following('10.0.0.1');
      for (let spent = 0; spent < 1_200_000; spent += life + 100) {
        await rig.pass(life + 100, life + 100);
        rig.api.break('gone');
      }
      expect(mostInAMinute(rig.api.lists)).toBeLessThanOrEqual(10);
      expect(rig.api.mostListsInFlight).toBe(1);
      expect(rig.endpoints()).toEqual(['10.0.0.1:9000']);
    },
  );

  test('a server that ends each watch at once is not asked in a loop', async () => {
    const rig = await following('10.0.0.1');
    for (let spent = 0; spent < 600_000; spent += 100) {
      rig.api.end();
      await rig.pass(100);
    }
    expect(mostInAMinute(rig.api.lists)).toBeLessThanOrEqual(10);
    expect(rig.api.watches).toBeLessThanOrEqual(110);
  });

  test('Retry-After is heeded, within two minutes', async () => {
    const rig = await following('10.0.0.1');
    rig.api.listFails = [new ApiFailure('throttled', '429', { retryAfterMs: 20_000 })];
    rig.api.break();
    await rig.pass(19_000);
    expect(rig.api.lists).toHaveLength(2);
    await rig.pass(6000);
    expect(rig.api.lists).toHaveLength(3);
    rig.api.listFails = [new ApiFailure('throttled', '429', { retryAfterMs: 86_400_000 })];
    rig.api.break();
    await rig.pass(140_000, 1000);
    expect(rig.api.lists).toHaveLength(5);
  });

  test('list is allowed and watch is not: lists go on, twice a minute at most when it lasts', async () => {
    const rig = await following('10.0.0.1');
    rig.api.watchAlways = new ApiFailure('forbidden', 'User "x" cannot watch resource "endpointslices"');
    rig.api.break();
    await rig.pass(300_000, 1000);
    rig.api.store.put(NS, aSlice('a', ['10.0.0.2']));
    await rig.pass(31_000, 1000);
    expect(rig.endpoints()).toEqual(['10.0.0.2:9000']);
    expect(mostInAMinute(rig.api.lists)).toBeLessThanOrEqual(10);
  });

  test('a bookmark of the past tells that history was lost', async () => {
    const rig = await following('10.0.0.1');
    rig.api.store.restore(NS, [aSlice('a', ['10.0.0.7'])]);
    rig.api.bookmark(11);
    await rig.pass(500);
    expect(rig.endpoints()).toEqual(['10.0.0.7:9000']);
    expect(rig.stream.status().errors.lost_history).toBe(1);
  });

  test('an object that cannot be read is skipped and counted, and the last of its name stays', async () => {
    const rig = await following('10.0.0.1');
    rig.api.send('MODIFIED', { metadata: { name: 'a' }, addressType: 'carrier pigeon' });
    rig.api.send('ADDED', 'nonsense');
    rig.api.send('ADDED', aSlice('b', ['10.0.0.2', 'x']));
    expect(rig.endpoints()).toEqual(['10.0.0.1:9000', '10.0.0.2:9000']);
    expect(rig.stream.status()).toMatchObject({ malformed: 3, connected: true });
    expect(rig.api.lists).toHaveLength(1);
  });
});

describe('what it says', () => {
  const NOT_FOUND =
    "WARN EndpointSlice not found: wrong namespace in config (verify the receivers' namespace), Service doesn't exist " +
    '(create a headless Service for the receivers), or missing RBAC (verify that the Role has endpointslices read ' +
    'permission) namespace="logging" service="receivers"';

  test('an empty list is named after 5 s, again after five minutes, and not once there is a slice', async () => {
    const rig = streamRig();
    await rig.pass(4900);
    expect(rig.log.lines).toEqual([]);
    await rig.pass(200);
    expect(rig.log.lines).toEqual([NOT_FOUND]);
    await rig.pass(299_000, 1000);
    expect(rig.log.lines).toHaveLength(1);
    await rig.pass(1100);
    expect(rig.log.lines).toEqual([NOT_FOUND, NOT_FOUND]);
    rig.api.store.put(NS, aSlice('a', null));
    await rig.pass(60_000, 1000);
    expect(rig.log.lines).toEqual([
      NOT_FOUND,
      NOT_FOUND,
      'INFO EndpointSlice found namespace="logging" service="receivers"',
    ]);
  });

  test('a Service that is deleted again is news again', async () => {
    const rig = await following('10.0.0.1');
    for (let turn = 0; turn < 2; turn++) {
      rig.api.store.delete(NS, 'a');
      await rig.pass(6000);
      rig.api.store.put(NS, aSlice('a', ['10.0.0.1']));
      await rig.pass(1000);
    }
    expect(rig.log.lines.map((line) => line.slice(0, 28))).toEqual([
      'WARN EndpointSlice not found',
      'INFO EndpointSlice found nam',
      'WARN EndpointSlice not found',
      'INFO EndpointSlice found nam',
    ]);
  });

  test('a Service that is deleted and created again within 5 s is no news', async () => {
    const rig = await following('10.0.0.1');
    rig.api.store.delete(NS, 'a');
    await rig.pass(4000);
    rig.api.store.put(NS, aSlice('b', ['10.0.0.2']));
    await rig.pass(20_000);
    expect(rig.log.lines).toEqual([]);
  });

  test('a refusal names verb and namespace and prints the Role for whom it refused', async () => {
    const user = 'system:serviceaccount:fan:out';
    const no = new ApiFailure('forbidden', `403 User "${user}" cannot list resource "endpointslices"`);
    const rig = streamRig({ prepare: always(no) });
    await rig.pass(200_000, 1000);
    const line = warnings(rig).join('\n');
    expect(line).toContain(
      'what is missing to list endpointslices in namespace "logging": &rights {apiVersion: v1, kind: List',
    );
    expect(line).toContain(
      'kind: Role, metadata: {name: udp-fanout, namespace: logging, ' +
        'labels: {app.kubernetes.io/name: udp-fanout, app.kubernetes.io/part-of: udp-fanout}}, ' +
        'rules: [{apiGroups: [discovery.k8s.io], ' +
        'resources: [endpointslices], verbs: [get, list, watch]}]}',
    );
    expect(line).toContain('subjects: [{kind: ServiceAccount, name: out, namespace: fan}]}');
    expect(line).toContain('; no endpoints are known yet namespace="logging" service="receivers" cause="forbidden"');
    expect(warnings(rig)).toHaveLength(1);
  });

  const FAILED =
    'WARN failed to watch EndpointSlices: broken by the test; the last known endpoints stay in use ' +
    'namespace="logging" service="receivers" cause="reset"';
  const FOLLOWS = 'INFO following EndpointSlices again namespace="logging" service="receivers"';

  test('that it follows again, once, after it said that it did not', async () => {
    const rig = await following('10.0.0.1');
    rig.api.break();
    await rig.pass(1000);
    expect(rig.log.lines).toEqual([FAILED, FOLLOWS]);
    await rig.pass(60_000, 1000);
    expect(rig.log.lines).toHaveLength(2);
  });

  test('an outage that comes within five minutes of the last one is said as that was, from its beginning to its end', async () => {
    const rig = await following('10.0.0.1');
    rig.api.break();
    await rig.pass(30_000, 1000);
    rig.api.listAlways = new ApiFailure('unreachable', 'connect ECONNREFUSED');
    rig.api.break();
    await rig.pass(60_000, 1000);
    const during = said(rig);
    rig.api.listAlways = undefined;
    await rig.pass(30_000, 1000);
    expect(during).toEqual([
      FAILED,
      FOLLOWS,
      FAILED,
      FAILED.replace('watch', 'list')
        .replace('broken by the test', 'connect ECONNREFUSED')
        .replace('reset', 'unreachable'),
    ]);
    expect(said(rig)).toEqual([...during, FOLLOWS]);
  });

  test('after a relapse it follows again only when it has done so for ten seconds', async () => {
    const rig = await following('10.0.0.1');
    rig.api.break();
    await rig.pass(1000);
    rig.api.break();
    await rig.pass(9000);
    expect(said(rig)).toEqual([FAILED, FOLLOWS, FAILED]);
    await rig.pass(3000);
    expect(said(rig)).toEqual([FAILED, FOLLOWS, FAILED, FOLLOWS]);
  });

  test.each([1, 15, 60])('a watch that breaks every %i s for an hour is neither a flood nor silence', async (life) => {
    const rig = await following('10.0.0.1');
    for (let spent = 0; spent < 3600; spent += life) {
      rig.api.break();
      await rig.pass(life * 1000, 1000);
    }
    const lines = said(rig).length;
    expect(lines).toBeGreaterThanOrEqual(12);
    expect(lines).toBeLessThanOrEqual(40);
  });

  test('its status: age, last event, relists, errors and endpoints by state', async () => {
    const rig = streamRig();
    expect(rig.stream.status()).toMatchObject({ connected: false, relists: 0, malformed: 0 });
    expect(rig.stream.status().ageSeconds).toBeUndefined();
    await rig.pass(3000);
    rig.api.store.put(
      NS,
      aSlice('a', ['10.0.0.1', anEndpoint('10.0.0.2', { ready: false }), aTerminating('10.0.0.3')]),
    );
    await rig.pass(2000);
    rig.api.bookmark();
    await rig.pass(1000);
    const status = rig.stream.status();
    expect(status).toMatchObject({ connected: true, ageSeconds: 1, lastEventAgeSeconds: 3 });
    expect(status.endpoints).toEqual({ ready: 1, unready: 1, draining: 1, terminating: 0 });
    expect(Object.keys(status.errors).sort()).toEqual([...CAUSES].sort());
  });
});

test('closed, it asks and says nothing more, whatever it was doing', async () => {
  for (const prepare of [
    async () => following('10.0.0.1'),
    async () => streamRig(),
    async () => {
      const rig = streamRig({ prepare: always(new ApiFailure('reset', 'x')) });
      await rig.pass(10_000);
      return rig;
    },
    async () => {
      const rig = streamRig({ prepare: always('hang') });
      await rig.pass(1000);
      return rig;
    },
  ]) {
    const rig = await prepare();
    rig.stream.close();
    await rig.pass(0);
    const before = [rig.api.lists.length, rig.api.watches, rig.log.lines.length];
    await rig.pass(600_000, 5000);
    expect([rig.api.lists.length, rig.api.watches, rig.log.lines.length]).toEqual(before);
  }
});

function mostInAMinute(times: readonly number[]): number {
  return Math.max(...times.map((from) => times.filter((at) => at >= from && at < from + 60_000).length));
}
