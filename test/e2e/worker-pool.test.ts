/** One pool of worker threads under many userspace listeners: each gets its own, and what happens to one is no other's. */
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import type { Host } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { AF, bind, errnoName, holdThread, SOCK, sendTo, socket } from '../../lab/libc.ts';
import { patient, pause, until } from '../../lab/patience.ts';
import { numberedPayload } from '../../lab/payload.ts';
import { singleNode } from '../../lab/single-node.ts';
import { encodeSockaddr, parseAddress } from '../../lab/sockaddr.ts';
import { receive, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle();
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const LISTENERS = 64;
/** Of each listener and family, by sources in turn. */
const DATAGRAMS = 40;
const SOURCES = 4;

/** The ids of an agent's worker threads, by their numbers in the pool. */
function workersOf({ pid }: Agent): string[] {
  const name = (id: string) => readFileSync(`/proc/${pid}/task/${id}/comm`, 'utf8').trim();
  const ids = readdirSync(`/proc/${pid}/task`).filter((id) => name(id).startsWith('udp-fanout-'));
  return ids.sort((a, b) => name(a).localeCompare(name(b)));
}

function residentBytes({ pid }: Agent): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) * 1024;
}

/** Sends numbered datagrams of one stream from several ports of the host, in no hurry of their own. */
function sendNumbered({ namespace }: Host, to: string, stream: number) {
  const address = encodeSockaddr(parseAddress(to));
  const v4 = !to.startsWith('[');
  namespace.inside(() => {
    const fds = Array.from({ length: SOURCES }, () => {
      const fd = socket(v4 ? AF.INET : AF.INET6, SOCK.DGRAM);
      bind(fd, encodeSockaddr({ family: v4 ? 4 : 6, ip: v4 ? '10.0.0.9' : 'fd00::9', port: 0 }));
      return fd;
    });
    for (let sequence = 0; sequence < DATAGRAMS; sequence++) {
      const payload = numberedPayload({ stream, sequence });
      const errno = sendTo(fds[sequence % SOURCES]!, payload, payload.length, address);
      if (errno !== 0) throw new Error(`send to ${to}: ${errnoName(errno)}`);
    }
    for (const fd of fds) closeSync(fd);
  });
  return { stream, from: '', count: DATAGRAMS };
}

describe.skipIf(obstacle)(titled('one pool for all listeners', obstacle), () => {
  test(
    `${LISTENERS} listeners of all families, sources and sizes on two threads: each gets its datagrams`,
    async () => {
      const { client, node, pods, ...topology } = singleNode({ pods: 2 });
      cleanUps.push(() => topology.close());
      client.namespace.ip(['addr add fd00::9/64 dev eth0 nodad', 'route add fd00:1::/64 via fd00::1']);
      node.namespace.ip(['addr add fd00::1/64 dev eth0 nodad']);
      const six = pods.map((pod, index) => {
        pod.namespace.ip([`addr add fd00:1::1${index}/128 dev eth0 nodad`]);
        node.namespace.ip([`route add fd00:1::1${index}/128 dev ${pod.hostInterface}`]);
        return `fd00:1::1${index}`;
      });
      // The first pod has what keeps its source, the second what does not.
      const listeners = Array.from({ length: LISTENERS }, (_, at) => {
        const to = at % 2;
        const downstream = [pods[to]!.address, `[${six[to]}]:${pods[to]!.port}`];
        const base = listener({ name: `l${at}`, bind: `[::]:${9000 + at}`, interface: 'eth0', downstream });
        const settings = { workers: 1 + (at % 2), batch_size: [64, 1, 16, 100][(at >> 1) % 4], max_sources: 4 };
        return { ...base, mode: 'userspace', source: to === 0 ? 'preserve' : 'nat', settings };
      });
      const agent = startAgent(node, config(...listeners));
      cleanUps.push(() => agent.stop());
      await agent.waitFor(/updated userspace downstream set listener_id=63/, { timeout: 20_000 });
      expect(workersOf(agent)).toHaveLength(2);
      const at = [await receive(pods), await receive(pods.map((pod, index) => ({ ...pod, ip: six[index]! })))];
      cleanUps.push(...at.map((one) => () => one.close()));
      const streams = listeners.map((_, index) => [
        sendNumbered(client, `10.0.0.1:${9000 + index}`, 10_000 + index),
        sendNumbered(client, `[fd00::1]:${9000 + index}`, 20_000 + index),
      ]);
      for (const [family, own] of ['10.0.0.', '[fd00::'].entries()) {
        const expected = LISTENERS * DATAGRAMS;
        const report = await at[family]!.report({ expect: expected });
        const sent = { streams: streams.map((both) => both[family]!) };
        expect(union(report, sent)).toEqual({ received: expected, missing: [], duplicated: [] });
        const hosts = report.receivers.map(({ sources }) => [
          ...new Set(Object.keys(sources).map((source) => source.replace(/\]?:\d+$/, ''))),
        ]);
        expect(hosts).toEqual([[`${own}9`], [`${own}1`]]);
        expect(report.payloadErrors + report.errors.InCsumErrors).toBe(0);
      }
      for (const { name } of listeners) {
        expect(await ledger(agent, name, 2 * DATAGRAMS)).toMatchObject({ forwarded: 2 * DATAGRAMS, dropped: {} });
      }
      expect(workersOf(agent)).toHaveLength(2);
      expect(residentBytes(agent)).toBeLessThan(256 << 20);
      const { code, ms } = await agent.stop();
      expect(code).toBe(0);
      expect(ms).toBeLessThan(patient(2000));
    },
    patient(60_000),
  );

  test('where a thread hangs the agent serves all its listeners within two seconds, the others’ go on', async () => {
    const { client, node, pods, ...topology } = singleNode();
    cleanUps.push(() => topology.close());
    const names = ['a', 'b', 'c', 'd'];
    const listeners = names.map((name, index) => {
      const base = listener({ name, bind: `0.0.0.0:${9000 + index}`, interface: 'eth0', downstream: pods });
      return { ...base, mode: 'userspace', settings: { workers: 1, recv_buf_size: 8 << 20 } };
    });
    const agent = startAgent(node, config(...listeners));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/updated userspace downstream set listener_id=3/);
    const at = await receive(pods);
    cleanUps.push(() => at.close());
    const from = Array.from({ length: 8 }, (_, index) => `10.0.0.9:${40000 + index}`);
    const sending = await Promise.all(
      names.map((_, index) => startSending(client, { to: `10.0.0.1:${9000 + index}`, from, rate: 1000 })),
    );
    const workers = workersOf(agent);
    const release = holdThread(Number(workers[0]));
    // An agent does not end while one of its threads is held.
    cleanUps.push(release);
    const held = performance.now();
    await agent.waitFor(/ERROR userspace worker hangs, the agent stands in for it worker=0 listeners=2 /);
    expect(performance.now() - held).toBeLessThan(patient(2000));
    await pause(500);
    cleanUps.pop();
    release();
    await agent.waitFor(/ERROR userspace worker died worker=0 listeners=2 .*restart_ms=100/);
    await pause(1000);
    const sent = await Promise.all(sending.map((one) => one.stop()));
    const count = sent.reduce((sum, one) => sum + one.count, 0);
    const report = await at.report({ expect: count, quiet: 300 });
    // What the thread had in hand, a batch of one listener's, may be lost; and nothing else.
    const lost = sent.map((one) => one.count - union(report, one).received);
    expect(sent.flatMap((one) => union(report, one).duplicated)).toEqual([]);
    expect(Math.max(...lost)).toBeLessThanOrEqual(64);
    expect([lost[1], lost[3], lost.filter((some) => some > 0).length]).toEqual([0, 0, lost[0] || lost[2] ? 1 : 0]);
    const metrics = await agent.metrics();
    expect(names.map((name) => metrics.get(`udp_fanout_worker_deaths_total{listener="${name}"}`))).toEqual([
      1, 0, 1, 0,
    ]);
    await until('there are two again', () => workersOf(agent).length === workers.length);
  });
});
