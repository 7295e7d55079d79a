/** The fake API server keeps to the conversations that `npm run test:k8s` holds with a real one. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openCredentials } from '../../agent/discovery/credentials.ts';
import { writeKubeconfig } from '../../lab/api/kubeconfig.ts';
import { FakeApi } from '../../lab/api/server.ts';
import { aSlice } from '../../lab/api/slices.ts';
import { issueCertificate } from '../../lab/api/tls.ts';
import { conversations } from '../conversation/format.ts';
import { hold, inFreshNamespace } from '../conversation/hold.ts';

const tls = issueCertificate();
const directory = mkdtempSync(join(tmpdir(), 'conversation-'));
const { KUBECONFIG } = process.env;

afterAll(() => {
  if (KUBECONFIG === undefined) delete process.env.KUBECONFIG;
  else process.env.KUBECONFIG = KUBECONFIG;
  rmSync(directory, { recursive: true });
});

describe.each(['v1', 'v1beta1'])('a server of %s', (version) => {
  const api = new FakeApi({ tls, versions: [version] });
  beforeAll(async () => {
    await api.start();
    process.env.KUBECONFIG = writeKubeconfig(directory, { url: api.url, ca: tls.ca });
  });
  afterAll(() => api.close());

  test.each(conversations())('$name', async (conversation) => {
    const credentials = openCredentials();
    const isHeld = conversation.versions?.includes(version) ?? true;
    await inFreshNamespace(credentials, async (namespace) => {
      const skipped = await hold(conversation, credentials, namespace);
      expect(skipped).toBe(isHeld ? undefined : `${version} is served, it takes v1`);
      expect(api.store.list(namespace, () => true).length).toBeLessThanOrEqual(2);
    });
  });

  test('a conversation that goes otherwise is told by its exchange', async () => {
    const [first] = conversations();
    const wrong = { ...first!, exchanges: [{ request: 'GET /api/v1/nonsense', status: 200 }] };
    const held = hold(wrong, openCredentials(), 'default');
    await expect(held).rejects.toThrow(`${first!.name}, exchange 1: GET /api/v1/nonsense: 404`);
  });

  test('one that the server has not come to yet says why, and one that errs in another way is held against it', async () => {
    const gone = conversations().find(({ name }) => name.includes('is gone'))!;
    const from = (resourceVersion: number) =>
      JSON.parse(JSON.stringify(gone).replace('Version=1&', `Version=${resourceVersion}&`));
    api.apply('default', aSlice('a', ['10.0.0.1']));
    const before = api.store.version - 1;
    expect(await hold(from(before), openCredentials(), 'default')).toContain('this server has forgotten nothing yet');
    api.store.compact();
    expect(await hold(from(before), openCredentials(), 'default')).toBeUndefined();
    const other = JSON.parse(JSON.stringify(from(before)).replace('"code":410', '"code":411'));
    await expect(hold(other, openCredentials(), 'default')).rejects.toThrow('event.object.code: 410, want 411');
  });
});
