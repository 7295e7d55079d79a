/** The answer of the lock, to one who asks over a socket of a folder's own. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { answer, type Identity } from '../../agent/lock.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lock-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

async function ask(identify: () => Identity): Promise<string> {
  const path = join(folder, 'socket');
  const server = createServer((asking) => answer(asking, identify)).listen({ path });
  await once(server, 'listening');
  try {
    return Buffer.concat(await connect({ path }).toArray()).toString('utf8');
  } finally {
    server.close();
  }
}

test('is what the agent says of itself, in one line', async () => {
  const identity: Identity = { pid: 7, version: '1.2.3', config: '/config.yaml', digest: 'aa' };
  expect(await ask(() => identity)).toBe(`${JSON.stringify(identity)}\n`);
});

test('of an agent that cannot tell is nothing, and the agent goes on', async () => {
  const cannot = () => {
    throw new Error('ELOOP: too many symbolic links encountered');
  };
  expect(await ask(cannot)).toBe('');
});
