/** Discovery over real HTTP against an API server that does what API servers do to their clients. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { openCredentials } from '../../agent/discovery/credentials.ts';
import { writeKubeconfig, writeServiceAccount } from '../../lab/api/kubeconfig.ts';
import type { FakeApi } from '../../lab/api/server.ts';
import { aSlice } from '../../lab/api/slices.ts';
import { issueCertificate } from '../../lab/api/tls.ts';
import { following, type HttpRig, type HttpRigOptions, httpRig, SPEED } from '../fake/api/http-rig.ts';

const NS = 'logging';
const { KUBECONFIG, KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT } = process.env;
const tls = issueCertificate();
const rigs: HttpRig[] = [];

afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.close();
  delete process.env.KUBECONFIG;
  delete process.env.KUBERNETES_SERVICE_HOST;
});
afterAll(() => {
  Object.assign(process.env, { ...(KUBECONFIG && { KUBECONFIG }) });
  Object.assign(process.env, { ...(KUBERNETES_SERVICE_HOST && { KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT }) });
});

async function rigged(options: HttpRigOptions = {}): Promise<HttpRig> {
  const rig = await httpRig(options);
  rigs.push(rig);
  return rig;
}

/** A rig that follows a slice with the two endpoints .1 and .2. */
async function settled(options: HttpRigOptions = {}): Promise<HttpRig> {
  const rig = await rigged({ prepare: (api) => api.apply(NS, aSlice('a', ['10.0.0.1', '10.0.0.2'])), ...options });
  await rig.settles(BOTH);
  await rig.watched();
  return rig;
}

const BOTH = ['10.0.0.1:9000', '10.0.0.2:9000'];
const THIRD = ['10.0.0.3:9000'];
const verbs = ({ asked }: FakeApi) => asked.map(({ verb }) => verb);
const lists = (api: FakeApi) => verbs(api).filter((verb) => verb === 'list').length;
/** Lets so many seconds of the fast clock pass. */
const seconds = (count: number) => sleep((count * 1000) / SPEED);

describe('faults', () => {
  test('the API is absent at start: nothing is known, and then all', async () => {
    const rig = await rigged({ started: false, prepare: (api) => api.apply(NS, aSlice('a', ['10.0.0.3'])) });
    await seconds(20);
    expect(rig.endpoints()).toBeUndefined();
    expect(rig.log.lines.filter((line) => line.startsWith('WARN'))).toHaveLength(1);
    expect(rig.log.lines[0]).toMatch(/ECONNREFUSED 127.0.0.1:\d+; no endpoints are known yet/);
    await rig.api.start();
    await rig.settles(THIRD);
  });

  test('a minute without the API changes nothing, and then what happened meanwhile takes effect', async () => {
    const rig = await settled();
    await rig.api.stop();
    rig.api.remove(NS, 'a');
    rig.api.apply(NS, aSlice('b', ['10.0.0.3']));
    const seen = new Set<string>();
    for (let second = 0; second < 60; second++) {
      await seconds(1);
      seen.add(String(rig.endpoints()));
    }
    expect([...seen]).toEqual([String(BOTH)]);
    expect(rig.status()).toMatchObject({ connected: false });
    await rig.api.start();
    await rig.settles(THIRD);
  });

  test('the connection breaks in the middle of an event', async () => {
    const rig = await settled();
    rig.api.watchers((watcher) => watcher.write('{"type":"MODIFIED","object":{"metadata":{"na'));
    rig.api.watchers((watcher) => watcher.reset());
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
    expect(rig.status().errors.reset).toBe(1);
  });

  test('the watch falls silent while its connection stands', async () => {
    const rig = await settled();
    rig.api.watchers((watcher) => {
      watcher.silent = true;
    });
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
    await rig.watched();
    expect(rig.status()).toMatchObject({ connected: true, relists: 0, errors: { stalled: 0 } });
    expect(rig.log.lines).toEqual([]);
  });

  test.each([['v1'], ['v1beta1']])(
    'a quiet cluster, %s: watches follow one another, without a list or a line',
    async (version) => {
      const rig = await settled({ versions: [version] });
      const [asked, said] = [lists(rig.api), rig.log.lines.length];
      for (let second = 0; second < 350; second++) {
        await seconds(1);
        expect(rig.status().connected).toBe(true);
      }
      expect(lists(rig.api)).toBe(asked);
      expect(verbs(rig.api).filter((verb) => verb === 'watch').length).toBeGreaterThanOrEqual(4);
      await rig.watched();
      expect(rig.log.lines.length).toBe(said);
      rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
      await rig.settles(THIRD);
    },
  );

  test.each(['list', 'watch'] as const)('a %s request gets no answer', async (verb) => {
    const rig = await settled();
    rig.api.fail({ verb, answer: 'hang' });
    rig.api.watchers((watcher) => watcher.reset());
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
    await rig.watched();
    expect(rig.status().errors[verb === 'list' ? 'timeout' : 'stalled']).toBe(1);
  });

  test('410 on the stream: one list, not a storm', async () => {
    const rig = await settled();
    rig.api.apply(NS, aSlice('other', ['10.9.9.9'], { service: 'other' }));
    rig.api.store.compact();
    await seconds(6);
    rig.api.watchers((watcher) => watcher.end());
    await expect.poll(() => rig.status().relists).toBe(1);
    await rig.watched();
    await seconds(30);
    expect(rig.status().errors).toMatchObject({ gone: 1, ended_early: 0 });
    expect(lists(rig.api)).toBe(2);
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
  });

  test('410 in an ERROR event of a standing watch', async () => {
    const rig = await settled();
    rig.api.watchers((watcher) => watcher.event('ERROR', { kind: 'Status', code: 410, reason: 'Expired' }));
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
    expect(rig.status()).toMatchObject({ relists: 1, errors: { gone: 1 } });
  });

  test('410 on the request', async () => {
    const rig = await settled();
    await seconds(6);
    rig.api.fail({ verb: 'watch', answer: 410 });
    rig.api.watchers((watcher) => watcher.end());
    await expect.poll(() => rig.status().errors.gone).toBe(1);
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
  });

  test('401: the token is read again', async () => {
    const rig = await settled();
    rig.api.access.rotate('second-token');
    writeFileSync(join(rig.directory, 'token'), 'second-token\n');
    rig.api.watchers((watcher) => watcher.reset());
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
    expect(rig.status().errors.unauthorized).toBe(1);
  });

  test('403: verb, namespace and the missing Role are said, and a Role that is given later is enough', async () => {
    const rig = await rigged({
      prepare: (api) => {
        api.apply(NS, aSlice('a', ['10.0.0.3']));
        api.access.deny('list', NS);
      },
    });
    await expect.poll(() => rig.log.lines).not.toEqual([]);
    expect(rig.log.lines[0]).toMatch(
      /^WARN failed to list EndpointSlices: forbidden: 403 .*cannot list resource "endpointslices".*in namespace "logging": &rights \{apiVersion: v1, kind: List.*subjects: \[\{kind: ServiceAccount, name: udp-fanout, namespace: udp-fanout\}\]/,
    );
    rig.api.access.grant('list', NS);
    await rig.settles(THIRD);
  });

  test('403 on watch alone: lists go on', async () => {
    const rig = await rigged({ prepare: (api) => api.access.deny('watch', NS) });
    await rig.settles([]);
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
    expect(rig.log.lines.join('\n')).toContain('what is missing to watch endpointslices in namespace "logging"');
  });

  test.each([
    [429, 'throttled', '20'],
    [503, 'server_error', '20'],
    [500, 'server_error', new Date(Date.now() + 3_600_000).toUTCString()],
  ] as const)('%i with Retry-After: it is heeded', async (answer, cause, retryAfter) => {
    const rig = await settled();
    rig.api.fail({ verb: 'list', answer, retryAfter });
    rig.api.watchers((watcher) => watcher.reset());
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
    expect(rig.status().errors[cause]).toBe(1);
    const at = rig.api.asked.filter(({ verb }) => verb === 'list').map((asked) => asked.at);
    expect((at[2]! - at[1]!) * SPEED).toBeGreaterThanOrEqual(19_900);
  });

  test('bookmarks carry a quiet watch over a history that is forgotten', async () => {
    const rig = await settled();
    await seconds(10);
    for (let other = 0; other < 50; other++) rig.api.apply('elsewhere', aSlice(`x${other}`, []));
    rig.api.store.compact();
    rig.api.bookmark();
    await seconds(1);
    rig.api.watchers((watcher) => watcher.end());
    await seconds(5);
    await rig.watched();
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
    expect(lists(rig.api)).toBe(1);
  });

  test.each(['after an outage', 'behind a connection that stands'])('history is lost %s', async (how) => {
    const rig = await settled();
    if (how === 'after an outage') await rig.api.stop();
    rig.api.store.restore(NS, [aSlice('z', ['10.0.0.3'])]);
    if (how === 'after an outage') await rig.api.start();
    else rig.api.bookmark();
    await rig.settles(THIRD);
    rig.api.apply(NS, aSlice('z', ['10.0.0.1', '10.0.0.2']));
    await rig.settles(BOTH);
  });

  test('malformed objects in a list and in a watch: the one is skipped, the rest kept', async () => {
    const broken = { metadata: { name: 'b', labels: { 'kubernetes.io/service-name': 'receivers' } }, addressType: '?' };
    const rig = await settled({
      prepare: (api) => api.apply(NS, aSlice('a', ['10.0.0.1', '10.0.0.2', 'not an address']), broken),
    });
    expect(rig.status().malformed).toBe(2);
    rig.api.watchers((watcher) => watcher.event('ADDED', broken));
    rig.api.apply(NS, aSlice('c', ['10.0.0.3']));
    await rig.settles([...BOTH, ...THIRD]);
    expect(rig.status()).toMatchObject({ malformed: 3, relists: 0 });
  });

  test.each(['list', 'watch'] as const)('a %s that is a proxy’s error page', async (verb) => {
    const rig = await settled();
    rig.api.fail({ verb, answer: 'garbage' });
    rig.api.watchers((watcher) => watcher.reset());
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
    await rig.watched();
    expect(rig.status().errors.malformed).toBe(1);
  });

  test.each([
    ['a Status', false],
    ['no more than text', true],
  ])('v1 is absent, and v1beta1 is after an upgrade, which is said by %s', async (_, plainNotFound) => {
    const rig = await settled({ versions: ['v1beta1'], plainNotFound });
    expect(rig.api.asked.map(({ version }) => version)).toEqual(['v1', 'v1beta1', 'v1beta1']);
    await rig.api.stop();
    rig.api.serve(['v1']);
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.api.start();
    await rig.settles(THIRD);
    await rig.watched();
    expect(rig.api.asked.at(-1)?.version).toBe('v1');
  });

  test('every answer fails for minutes: at most ten lists in any of them', async () => {
    const rig = await settled();
    rig.api.fail({ answer: 500, times: 10_000 });
    rig.api.watchers((watcher) => watcher.reset());
    await seconds(200);
    const at = rig.api.asked.filter(({ verb }) => verb === 'list').map((asked) => asked.at * SPEED);
    const most = Math.max(...at.map((from) => at.filter((other) => other >= from && other < from + 60_000).length));
    expect(most).toBeLessThanOrEqual(10);
    expect(rig.endpoints()).toEqual(BOTH);
  });
});

describe('the wire', () => {
  test.each([1, 7, 1000])(
    'events in pieces of %i bytes, characters of several bytes among them',
    async (chunkBytes) => {
      const rig = await settled({ chunkBytes });
      const slice = aSlice('b', ['10.0.0.3']);
      rig.api.apply(NS, { ...slice, metadata: { ...slice.metadata, annotations: { note: 'grün € 😀' } } });
      await rig.settles([...BOTH, ...THIRD]);
      rig.api.remove(NS, 'b');
      await rig.settles(BOTH);
      expect(rig.status()).toMatchObject({ relists: 0, malformed: 0 });
    },
  );

  test('the least that is asked: one list and one watch of one Service, whoever follows it', async () => {
    const rig = await settled({ listeners: [following(NS, 0), following(NS, 1)] });
    await rig.settles(BOTH, 1);
    expect(verbs(rig.api)).toEqual(['list', 'watch']);
    expect(rig.api.asked.map(({ namespace }) => namespace)).toEqual([NS, NS]);
    const [list, watch] = rig.api.asked.map(({ query }) => new URLSearchParams(query));
    expect([...list!]).toEqual([['labelSelector', 'kubernetes.io/service-name=receivers']]);
    expect(watch!.get('allowWatchBookmarks')).toBe('true');
    expect(Number(watch!.get('timeoutSeconds'))).toBeGreaterThanOrEqual(300);
    expect(Number(watch!.get('timeoutSeconds'))).toBeLessThanOrEqual(600);
  });

  test('slices of other Services are not ours, also when one changes hands', async () => {
    const rig = await settled();
    rig.api.apply(NS, aSlice('b', ['10.0.0.9'], { service: 'others' }));
    rig.api.apply(NS, aSlice('a', ['10.0.0.3'], { service: 'others' }));
    await rig.settles([]);
    rig.api.apply(NS, aSlice('b', ['10.0.0.3']));
    await rig.settles(THIRD);
  });

  test('three tenants, one of them refused: the two others are served', async () => {
    const tenants = ['tenant-a', 'tenant-b', 'tenant-c'];
    const rig = await rigged({
      listeners: tenants.map((tenant, id) => following(tenant, id)),
      prepare: (api) => {
        for (const tenant of tenants) api.apply(tenant, aSlice('a', ['10.0.0.3']));
        api.access.deny('list', 'tenant-c');
      },
    });
    await rig.settles(THIRD, 0);
    await rig.settles(THIRD, 1);
    await seconds(30);
    expect(rig.endpoints(2)).toBeUndefined();
    rig.api.apply('tenant-a', aSlice('a', ['10.0.0.1', '10.0.0.2']));
    await rig.settles(BOTH, 0);
    expect(rig.endpoints(1)).toEqual(THIRD);
  });

  test('what the slices cannot give is said once', async () => {
    const rig = await rigged({
      prepare: (api) => api.apply(NS, aSlice('a', ['10.0.0.1'], { ports: [{ protocol: 'UDP', port: 514 }] })),
    });
    await rig.settles([]);
    rig.api.apply(NS, aSlice('b', ['10.0.0.2'], { ports: [{ protocol: 'UDP', port: 514 }] }));
    await seconds(20);
    expect(rig.endpoints()).toEqual([]);
    const said =
      'WARN the endpoints have no UDP port 9000, they have 514/UDP listener="listener-0" namespace="logging" service="receivers"';
    expect(rig.log.lines).toEqual([said]);
  });
});

describe('who we are and whom we trust', () => {
  const inCluster =
    (host: string) =>
    ({ port }: FakeApi, directory: string) => {
      writeServiceAccount(directory, { ca: tls.ca });
      process.env.KUBERNETES_SERVICE_HOST = host;
      process.env.KUBERNETES_SERVICE_PORT = String(port);
      return openCredentials(directory);
    };

  test.each(['127.0.0.1', '::1'])('in a cluster whose API server is at %s', async (host) => {
    const rig = await settled({ tls, host, login: inCluster(host) });
    rig.api.access.rotate('second-token');
    writeServiceAccount(rig.directory, { ca: tls.ca, token: 'second-token' });
    rig.api.watchers((watcher) => watcher.reset());
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
  });

  test('a server that its CA did not sign is not trusted, until the right CA is mounted', async () => {
    const stranger = issueCertificate();
    const rig = await rigged({
      tls: stranger,
      login: inCluster('127.0.0.1'),
      prepare: (api) => api.apply(NS, aSlice('a', ['10.0.0.3'])),
    });
    await expect.poll(() => rig.status().errors.unreachable).toBeGreaterThan(0);
    expect(rig.log.lines[0]).toMatch(/certificate/);
    expect(rig.api.asked).toEqual([]);
    writeServiceAccount(rig.directory, { ca: stranger.ca });
    await rig.settles(THIRD);
  });

  test('with TLS and a kubeconfig', async () => {
    const rig = await settled({ tls });
    rig.api.apply(NS, aSlice('a', ['10.0.0.3']));
    await rig.settles(THIRD);
  });

  test('with a token that a plugin brings', async () => {
    const rig = await settled({
      login: (api, directory) => {
        const file = writeKubeconfig(directory, { url: api.url });
        const credential = { kind: 'ExecCredential', status: { token: 'first-token' } };
        const args = ['-e', `console.log(${JSON.stringify(JSON.stringify(credential))})`];
        const exec = { apiVersion: 'client.authentication.k8s.io/v1', command: process.execPath, args };
        const cluster = { name: 'fake', cluster: { server: api.url } };
        const context = { name: 'fake', context: { cluster: 'fake', user: 'agent' } };
        const users = [{ name: 'agent', user: { exec } }];
        const config = { clusters: [cluster], contexts: [context], users, 'current-context': 'fake' };
        writeFileSync(file, JSON.stringify(config));
        process.env.KUBECONFIG = file;
        return openCredentials();
      },
    });
    expect(rig.status().errors.unauthorized).toBe(0);
  });

  test('without a kubeconfig nothing is known, until there is one', async () => {
    const rig = await rigged({
      prepare: (api) => api.apply(NS, aSlice('a', ['10.0.0.3'])),
      login: (_, directory) => {
        process.env.KUBECONFIG = join(directory, 'later', 'kubeconfig');
        return openCredentials();
      },
    });
    await expect.poll(() => rig.status().errors.credentials).toBeGreaterThan(0);
    expect(rig.log.lines[0]).toMatch(/no way to authenticate: ENOENT.*no endpoints are known yet/);
    mkdirSync(join(rig.directory, 'later'));
    writeKubeconfig(join(rig.directory, 'later'), { url: rig.api.url });
    await rig.settles(THIRD);
    rmSync(join(rig.directory, 'later'), { recursive: true });
  });

  test('outside a cluster and without KUBECONFIG it says what is missing', async () => {
    const rig = await rigged({
      login: (_, directory) => {
        delete process.env.KUBECONFIG;
        return openCredentials(directory);
      },
    });
    await expect.poll(() => rig.log.lines).not.toEqual([]);
    expect(rig.log.lines[0]).toContain('this is no pod with a service account, and KUBECONFIG is not set');
  });
});
