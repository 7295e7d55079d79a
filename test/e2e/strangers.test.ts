/** The HTTP server, on a port that anybody on the node's network may connect to. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient } from '../../lab/patience.ts';
import { singleNode } from '../../lab/single-node.ts';
import { config, listener } from './configs.ts';

const obstacle = labObstacle();
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const mebibytes = ({ pid }: Agent) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024;

/** Opens connections as fast as they are taken, writes to each, keeps it, and says so when all were opened. */
const OPEN = `
const { connect } = require('node:net');
const [count, text] = [Number(process.argv[1]), Buffer.from(process.argv[2])];
let opened = 0, next = 0;
const open = () => {
  if (next++ >= count) return;
  const socket = connect(9090, '127.0.0.1');
  socket.on('error', () => {}).once('connect', () => {
    socket.write(text);
    if (++opened === count) console.log('opened');
    open();
  });
};
for (let at = 0; at < 200; at++) open();
setInterval(() => {}, 1000);
`;

describe.skipIf(obstacle)(titled('the HTTP server', obstacle), () => {
  async function started() {
    const { node, pods, ...topology } = singleNode({ pods: 1 });
    cleanUps.push(() => topology.close());
    const agent = startAgent(node, config(listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods })));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/attached TC eBPF program/);
    const strangers = async (count: number, text: string) => {
      const child = node.namespace.spawn(process.execPath, ['-e', OPEN, String(count), text], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      cleanUps.push(() => child.kill('SIGKILL'));
      return { opened: once(child.stdout!, 'data'), end: () => child.kill('SIGKILL') };
    };
    return { agent, strangers, node };
  }

  test.each([
    [10_000, 'headers that do not end', `GET /metrics HTTP/1.1\r\nhost: a\r\nx: ${'x'.repeat(15_000)}`],
    [10_000, 'shorter ones', `GET /metrics HTTP/1.1\r\nhost: a\r\nx: ${'x'.repeat(7000)}`],
    [500, 'answers that nobody reads', 'GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n'.repeat(100)],
    [2000, 'nothing said', ''],
  ])(
    '%d connections with %s take no memory, and a scrape is answered meanwhile',
    async (count, _, text) => {
      const { agent, strangers } = await started();
      const before = mebibytes(agent);
      const flood = await strangers(count, text);
      let [most, answers] = [0, 0];
      let done = false;
      const opened = flood.opened.then(() => {
        done = true;
      });
      const looking = (async () => {
        while (!done) {
          answers += await agent.metrics().then(
            () => 1,
            () => 0,
          );
          most = Math.max(most, mebibytes(agent));
        }
      })();
      await Promise.all([opened, looking]);
      expect((await agent.get('/metrics')).status).toBe(200);
      expect(answers).toBeGreaterThan(0);
      expect(Math.max(most, mebibytes(agent)) - before).toBeLessThan(48);
    },
    patient(60_000),
  );

  test.each([
    ['begins a request and does not end it', 'GET /metrics HTTP/1.1\r\n', /^HTTP\/1.1 408 /],
    ['has long headers', `GET /metrics HTTP/1.1\r\nx: ${'x'.repeat(9000)}\r\n\r\n`, /^HTTP\/1.1 431 /],
  ])(
    'a connection that %s is told so, and ends',
    async (_, text, answer) => {
      const { node } = await started();
      const socket = node.namespace.connect('127.0.0.1:9090');
      socket.write(text);
      const chunks = await socket.toArray();
      expect(Buffer.concat(chunks).toString()).toMatch(answer);
    },
    patient(20_000),
  );
});
