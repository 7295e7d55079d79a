/** What `check` says of memory, held against agents that run. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../../agent/config/load.ts';
import { memoryNeed } from '../../agent/memory-need.ts';
import { startAgent } from '../../lab/agent.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient, until } from '../../lab/patience.ts';
import { singleNode } from '../../lab/single-node.ts';
import { config, listener } from './configs.ts';

const obstacle = labObstacle();
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function many(listeners: number, downstreams: number, keys: object) {
  const downstream = Array.from({ length: downstreams }, (_, to) => `10.1.${to >> 8}.${to & 255}:9000`);
  return Array.from({ length: listeners }, (_, at) => ({
    ...listener({ name: `l${at}`, bind: `0.0.0.0:${10_000 + at}`, interface: 'eth0', downstream }),
    ...keys,
  }));
}

describe.skipIf(obstacle)(titled('memory', obstacle), () => {
  test.each([
    [
      '16 worker threads',
      many(1, 1, { mode: 'userspace', settings: { workers: 16 } }),
      /with 16 worker threads and 1 /,
    ],
    ['256 listeners on 2 worker threads', many(256, 1, { mode: 'userspace', settings: { workers: 2 } }), undefined],
    ['20,480 downstreams', many(5, 4096, {}), undefined],
  ])(
    'is what check says, or somewhat less: %s',
    async (_, listeners, remark) => {
      const { node, ...topology } = singleNode({ pods: 1 });
      cleanUps.push(() => topology.close());
      // On one line, since written out it would be more than a file may have.
      const agent = startAgent(node, JSON.stringify(config(...listeners)));
      cleanUps.push(() => agent.stop(patient(15_000)));
      const status = () =>
        agent
          .get('/readyz')
          .then((answer) => answer.status)
          .catch(() => 0);
      await until('it is ready', async () => (await status()) === 200, { limit: 40_000, every: 200 });
      for (let scrape = 0; scrape < 3; scrape++) await agent.metrics();
      const used = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${agent.pid}/status`, 'utf8'))![1]) * 1024;
      const { bytes } = memoryNeed(loadConfig(agent.configFile).listeners);
      expect(used).toBeLessThan(bytes);
      expect(used).toBeGreaterThan(bytes / 2);
      const check = [process.execPath, 'dist/udp-fanout.js', 'check', agent.configFile] as const;
      const [verdict, ...remarks] = execFileSync(check[0], check.slice(1), { encoding: 'utf8' }).trim().split('\n');
      expect(verdict).toMatch(/: ok, /);
      expect(remarks).toEqual(remark ? [expect.stringMatching(remark)] : []);
    },
    patient(90_000),
  );
});
