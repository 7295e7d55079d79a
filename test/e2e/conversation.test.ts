/** The fake API server keeps to the conversations that `npm run test:k8s` holds with a real one. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openCredentials } from '../../agent/discovery/credentials.ts';
import { conversations } from '../conversation/format.ts';
import { hold, inFreshNamespace } from '../conversation/hold.ts';
import { writeKubeconfig } from '../fake/api/kubeconfig.ts';
import { FakeApi } from '../fake/api/server.ts';
import { issueCertificate } from '../fake/api/tls.ts';

const tls = issueCertificate();
const api = new FakeApi({ tls });
const directory = mkdtempSync(join(tmpdir(), 'conversation-'));
const { KUBECONFIG } = process.env;

beforeAll(async () => {
  await api.start();
  process.env.KUBECONFIG = writeKubeconfig(directory, { url: api.url, ca: tls.ca });
});
afterAll(async () => {
  if (KUBECONFIG === undefined) delete process.env.KUBECONFIG;
  else process.env.KUBECONFIG = KUBECONFIG;
  await api.close();
  rmSync(directory, { recursive: true });
});

test.each(conversations())('$name', async (conversation) => {
  const credentials = openCredentials();
  await inFreshNamespace(credentials, async (namespace) => {
    await hold(conversation, credentials, namespace);
    expect(api.store.list(namespace, () => true).length).toBeLessThanOrEqual(2);
  });
});

test('a conversation that goes otherwise is told by its exchange', async () => {
  const [first] = conversations();
  const wrong = { ...first!, exchanges: [{ request: 'GET /api/v1/nonsense', status: 200 }] };
  const held = hold(wrong, openCredentials(), 'default');
  await expect(held).rejects.toThrow(`${first!.name}, exchange 1: GET /api/v1/nonsense: 404`);
});
