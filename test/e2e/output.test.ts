/** What is written is read to its end by whoever reads, however slowly, and nothing depends on a reader that does not. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient, pause, until } from '../../lab/patience.ts';
import { singleNode } from '../../lab/single-node.ts';
import { config, listener } from './configs.ts';

const obstacle = labObstacle();
const PROGRAM = [process.execPath, 'dist/udp-fanout.js'];
const MISTAKES = 5000;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function mistaken(): string {
  const folder = mkdtempSync(join(tmpdir(), 'udp-fanout-'));
  cleanUps.push(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'config.yaml');
  const wrong = Array.from({ length: MISTAKES }, (_, index) => `wrong${index}: 1\n`);
  writeFileSync(file, wrong.join(''));
  return file;
}

/** Waits for one whose log cannot be waited for. */
async function ready(agent: Agent): Promise<void> {
  const status = () =>
    agent
      .get('/readyz')
      .then((answer) => answer.status)
      .catch(() => 0);
  await until('it is ready', async () => (await status()) === 200);
}

// Node's own pipes are sockets with more room: the shell's are what people use.
test.each([
  ['check', (file: string) => ['check', file]],
  ['doctor', (file: string) => ['doctor', '--config', file]],
  ['the agent', (file: string) => ['--config', file]],
])('%s says every mistake to a reader that is slow', async (_, args) => {
  const piped = ['-c', '"$@" 2>&1 | (sleep 0.5; cat)', 'sh', ...PROGRAM, ...args(mistaken())];
  const { stdout } = await promisify(execFile)('sh', piped, { maxBuffer: 1 << 24 });
  expect(stdout.match(/unknown key/g)).toHaveLength(MISTAKES);
});

test('a reader that is gone is no failure of check', async () => {
  const [command = '', ...program] = PROGRAM;
  const child = spawn(command, [...program, 'check', mistaken()], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stderr.destroy();
  expect(await once(child, 'close')).toEqual([2, null]);
});

describe.skipIf(obstacle)(titled('the agent’s log', obstacle), () => {
  /** An agent whose standard output is a pipe, full before its first line, and a reader for it. */
  async function unread() {
    const { node, pods, ...topology } = singleNode({ pods: 1 });
    cleanUps.push(() => topology.close());
    const pipe = join(node.namespace.directory, 'log');
    const full = `mkfifo ${pipe} && exec 3<>${pipe} && head -c 65536 /dev/zero >${pipe} && exec "$@" >${pipe} 2>&1`;
    const of = listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods });
    const agent = startAgent(node, config(of), { under: ['sh', '-c', full, 'sh'] });
    await ready(agent);
    return { agent, pipe };
  }

  test('is no condition of its work, nor of its end', async () => {
    const { agent } = await unread();
    agent.kill('SIGTERM');
    const { code, ms } = await agent.ended;
    expect(code).toBe(0);
    expect(ms).toBeLessThan(patient(12_000));
  });

  test('has its last words also where its reader comes late', async () => {
    const { agent, pipe } = await unread();
    agent.kill('SIGTERM');
    await pause(500);
    const { stdout } = await promisify(execFile)('cat', [pipe], { maxBuffer: 1 << 24 });
    expect((await agent.ended).code).toBe(0);
    expect(stdout).toMatch(/INFO starting udp-fanout /);
    expect(stdout).toMatch(/INFO stopping signal="SIGTERM"\n$/);
  });

  test('may lose its reader', async () => {
    const { node, pods, ...topology } = singleNode({ pods: 1 });
    cleanUps.push(() => topology.close());
    const of = listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods });
    const gone = ['sh', '-c', 'mkfifo "$0" && { : <"$0" & exec "$@" >"$0" 2>&1; }'];
    const agent = startAgent(node, config(of), { under: [...gone, join(node.namespace.directory, 'log')] });
    await ready(agent);
    expect((await agent.stop()).code).toBe(0);
  });
});
