/** The userspace datapath where it differs from the kernel path: sources, sizes, failures, its place as safety net. */
import { closeSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, test } from 'vitest';
import { openUserspaceDatapath } from '../../agent/datapath/userspace/datapath.ts';
import { SENDERS } from '../../agent/datapath/userspace/sockets/open.ts';
import { type StartThread, startThread } from '../../agent/datapath/userspace/workers/pool-thread.ts';
import { ThreadState } from '../../agent/datapath/userspace/workers/thread-state.ts';
import type { Listener } from '../../agent/model.ts';
import { buildTable } from '../../agent/table.ts';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { loses } from '../../lab/books.ts';
import { udp4, udp6 } from '../../lab/frame.ts';
import type { Host, Topology } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { AF, bind, errnoName, holdThread, SOCK, sendTo, socket } from '../../lab/libc.ts';
import { patient, pause, until } from '../../lab/patience.ts';
import { numberedPayload } from '../../lab/payload.ts';
import { type SingleNode, singleNode } from '../../lab/single-node.ts';
import { encodeSockaddr, parseAddress } from '../../lab/sockaddr.ts';
import { type Receivers, receive, send, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { inject } from '../../lab/wire.ts';
import { aListener, aLog, anEndpoint } from '../fake/words.ts';
import { config, listener } from './configs.ts';
import { ledger } from './conservation.ts';

const obstacle = labObstacle();
const title = (text: string) => titled(text, obstacle);
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const CLIENT = '10.0.0.9:40000';
const SETTINGS = { workers: 2, recv_buf_size: 64 << 20 };
const ATTACHED = /attached TC eBPF program to ingress interface="eth0"/;
const WORKING = /updated userspace downstream set/;

function built<T extends Topology>(topology: T): T {
  cleanUps.push(() => topology.close());
  return topology;
}

/** Starts an agent with one userspace listener on 0.0.0.0:9000, and the given keys. */
async function started(node: Host, downstream: readonly string[], keys: object = {}): Promise<Agent> {
  const base = listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream });
  const agent = startAgent(node, config({ ...base, mode: 'userspace', settings: SETTINGS, ...keys } as typeof base));
  cleanUps.push(() => agent.stop());
  await agent.waitFor(WORKING);
  return agent;
}

async function receivers(...args: Parameters<typeof receive>): Promise<Receivers> {
  const opened = await receive(...args);
  cleanUps.push(() => opened.close());
  return opened;
}

/** IPv6 beside the single node's IPv4: fd00::9 and fd00::1 on the link, fd00:1::10 and so on in the pods. */
function withIpv6({ client, node, pods }: SingleNode): string[] {
  client.namespace.ip(['addr add fd00::9/64 dev eth0 nodad', 'route add fd00:1::/64 via fd00::1']);
  node.namespace.ip(['addr add fd00::1/64 dev eth0 nodad']);
  return pods.map((pod, index) => {
    pod.namespace.ip([`addr add fd00:1::1${index}/128 dev eth0 nodad`]);
    node.namespace.ip([`route add fd00:1::1${index}/128 dev ${pod.hostInterface}`]);
    return `[fd00:1::1${index}]:${pod.port}`;
  });
}

/** Sends datagrams of any size, also such as have no room for a number. */
function sendPlain({ namespace }: Host, to: string, size: number, count: number): void {
  const address = encodeSockaddr(parseAddress(to));
  const v4 = !to.startsWith('[');
  namespace.inside(() => {
    const fd = socket(v4 ? AF.INET : AF.INET6, SOCK.DGRAM);
    bind(fd, encodeSockaddr({ family: v4 ? 4 : 6, ip: v4 ? '0.0.0.0' : '::', port: 0 }));
    for (let i = 0; i < count; i++) {
      const errno = sendTo(fd, Buffer.alloc(size), size, address);
      if (errno !== 0) throw new Error(`send of ${size} bytes to ${to}: ${errnoName(errno)}`);
    }
    closeSync(fd);
  });
}

describe.skipIf(obstacle)(title('userspace: sizes and families'), () => {
  const sizes = [0, 1, 1472, 1473, 8972, 9000, 9001, 65507];

  test.each([
    ['nat', 9000],
    ['preserve', 9000],
    ['nat', 65507],
    ['preserve', 65507],
  ])('source %s, at most %i bytes: whole or counted, over both families of one socket', async (source, most) => {
    const topology = built(singleNode());
    const { client, node, pods } = topology;
    const six = withIpv6(topology);
    const settings = { ...SETTINGS, max_packet_size: most };
    const downstream = [...pods.map(({ address }) => address), ...six];
    const agent = await started(node, downstream, { bind: '[::]:9000', source, settings });
    const at = [await receivers(pods, {}), await receivers(pods.map((pod, i) => ({ ...pod, ip: `fd00:1::1${i}` })))];
    const count = 6;
    for (const size of sizes) {
      for (const [family, to] of ['10.0.0.1:9000', '[fd00::1]:9000'].entries()) {
        sendPlain(client, to, size, count);
        const expected = size <= most ? count : 0;
        const report = await at[family]!.report({ expect: expected, quiet: expected ? 1000 : 20 });
        expect(report.receivers.map((one) => [one.count, one.bytes])).toEqual(
          pods.map(() => [expected / pods.length, (size * expected) / pods.length]),
        );
        const { InCsumErrors, NoPorts } = report.errors;
        expect([InCsumErrors, NoPorts]).toEqual([0, 0]);
      }
    }
    const large = sizes.filter((size) => size > most).length;
    expect(await ledger(agent, 'test', 2 * count * sizes.length)).toMatchObject({
      dropped: large ? { truncated: 2 * count * large } : {},
    });
  });
});

describe.skipIf(obstacle)(title('userspace: sources'), () => {
  test('nat: the node’s own address', async () => {
    const { client, node, pods } = built(singleNode());
    const agent = await started(node, [pods[0]!.address], { source: 'nat' });
    const at = await receivers(pods.slice(0, 1));
    const sent = await send(client, { to: '10.0.0.1:9000', from: CLIENT, count: 100 });
    const report = await at.report({ expect: 100 });
    expect(union(report, sent)).toEqual({ received: 100, missing: [], duplicated: [] });
    const [receiver] = report.receivers;
    expect(Object.keys(receiver!.sources).every((source) => source.startsWith('10.0.0.1:'))).toBe(true);
    expect(agent.lines.filter((line) => / WARN | ERROR /.test(line))).toEqual([]);
  });

  test('preserve: talkers and the long tail alike, in order, with few descriptors', async () => {
    // Checksums left to hardware: before Linux 6.11 nothing else can send many datagrams as one.
    const { client, node, pods } = built(singleNode({ pods: 1, checksums: 'offloaded' }));
    const settings = { ...SETTINGS, max_sources: 4 };
    const agent = await started(node, [pods[0]!.address], { source: 'preserve', settings });
    const before = readdirSync(`/proc/${agent.pid}/fd`).length;
    const at = await receivers(pods);
    const from = Array.from({ length: 300 }, (_, i) => `10.9.${i >> 8}.${i & 255}:${20000 + i}`);
    // In bursts of many from one source, and of one each from many.
    const talk = await send(client, { to: '10.0.0.1:9000', from: from.slice(0, 12), count: 2400, segments: 20 });
    const tail = await send(client, { to: '10.0.0.1:9000', from, count: 3000 });
    const report = await at.report({ expect: 5400 });
    expect(union(report, talk)).toEqual({ received: 2400, missing: [], duplicated: [] });
    expect(union(report, tail)).toEqual({ received: 3000, missing: [], duplicated: [] });
    const [receiver] = report.receivers;
    const expected = Object.fromEntries(from.map((source, i) => [source, 10 + (i < 12 ? 200 : 0)]));
    expect(receiver!.sources).toEqual(expected);
    expect(receiver!.streams.every(({ outOfOrder }) => outOfOrder === 0)).toBe(true);
    expect(report.payloadErrors + report.errors.InCsumErrors).toBe(0);
    // Each of two workers: four clients' sockets, two raw ones, and their own of this host; and the agent's main thread
    // may just have a socket open to the kernel or to a scrape. Not 300.
    expect(readdirSync(`/proc/${agent.pid}/fd`).length - before).toBeLessThanOrEqual(2 * (4 + 2 + 2) + 3);
  });

  test('preserve: also IPv6 where the loopback interface has none', async () => {
    const topology = built(singleNode());
    const { client, node, pods } = topology;
    const six = withIpv6(topology);
    node.namespace.sysctl({ 'net/ipv6/conf/lo/disable_ipv6': 1 });
    const agent = await started(node, six, { bind: '[::]:9000', source: 'preserve' });
    const at = await receivers(pods.map((pod, i) => ({ ...pod, ip: `fd00:1::1${i}` })));
    const from = '[fd00::9]:40000';
    const sent = await send(client, { to: '[fd00::1]:9000', from, count: 30, rate: 100 });
    const report = await at.report({ expect: 30 });
    expect(union(report, sent)).toEqual({ received: 30, missing: [], duplicated: [] });
    expect(report.receivers.map(({ sources }) => sources)).toEqual(pods.map(() => ({ [from]: 10 })));
    expect((await ledger(agent, 'test', 30)).forwarded).toBe(30);
  });
});

describe.skipIf(obstacle)(title('userspace: sources that are odd'), () => {
  /** Frames of numbered datagrams from such a source to the node, as the client puts them on the wire. */
  const frames = (src: string, sport: number, count: number, dst: string) =>
    Array.from({ length: count }, (_, sequence) => {
      const payload = numberedPayload({ stream: 1, sequence });
      // To all hosts, since the kernel believes 0.0.0.0 nowhere else.
      const fields = { src, dst, sport, dport: 9000, payload };
      if (src === '0.0.0.0') return udp4({ ...fields, dst: '255.255.255.255', dmac: 'ff:ff:ff:ff:ff:ff' });
      return (src.includes(':') ? udp6 : udp4)(fields);
    });

  test.each([
    ['preserve', { '10.0.0.9:0': 40 }, { '[fd00::9]:0': 40 }, { martian_source: 80 }],
    ['nat', { '10.0.0.1': 80 }, { '[fd00::1]': 80 }, {}],
  ])(
    '%s: port 0 is kept or replaced, what has no address is dropped by name or replaced',
    async (source, four, six, dropped) => {
      const topology = built(singleNode());
      const { client, node, pods } = topology;
      const [v6 = ''] = withIpv6(topology);
      const pod = pods[0]!;
      const agent = await started(node, [pod.address, v6], { bind: '[::]:9000', source });
      const at = await receivers([pod, { ...pod, ip: 'fd00:1::10' }]);
      inject(client.namespace, 'eth0', [
        ...frames('10.0.0.9', 0, 40, '10.0.0.1'),
        ...frames('fd00::9', 0, 40, 'fd00::1'),
        ...frames('0.0.0.0', 68, 40, ''),
        ...frames('::', 546, 40, 'fd00::1'),
      ]);
      const report = await at.report({ expect: source === 'nat' ? 160 : 80 });
      const seen = report.receivers.map(({ sources }) => {
        const strip = (text: string) => (source === 'nat' ? text.replace(/:\d+$/, '') : text);
        const counts: Record<string, number> = {};
        for (const [text, count] of Object.entries(sources)) counts[strip(text)] = (counts[strip(text)] ?? 0) + count;
        return counts;
      });
      expect(seen).toEqual([four, six]);
      expect(report.payloadErrors + report.errors.InCsumErrors).toBe(0);
      expect((await ledger(agent, 'test', 160)).dropped).toEqual(dropped);
    },
  );
});

describe.skipIf(obstacle)(title('userspace: few descriptors'), () => {
  test('clients and downstreams leave some to the rest of the agent, and all sources are kept', async () => {
    const { client, node, pods } = built(singleNode({ pods: 1 }));
    const base = listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: [pods[0]!.address] });
    const keys = { mode: 'userspace', source: 'preserve', settings: SETTINGS };
    const under = ['sh', '-c', 'ulimit -n 256 && exec "$@"', 'sh'];
    const agent = startAgent(node, config({ ...base, ...keys } as typeof base), { under });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(WORKING);
    const at = await receivers(pods);
    const from = Array.from({ length: 600 }, (_, i) => `10.9.${i >> 8}.${i & 255}:${20000 + i}`);
    const sent = await send(client, { to: '10.0.0.1:9000', from, count: 12_000, segments: 20, rate: 20_000 });
    const report = await at.report({ expect: 12_000 });
    expect(union(report, sent)).toEqual({ received: 12_000, missing: [], duplicated: [] });
    expect(report.receivers[0]!.sources).toEqual(Object.fromEntries(from.map((source) => [source, 20])));
    // Forwarding has taken all but those that are kept back, of which a few are in use.
    const open = readdirSync(`/proc/${agent.pid}/fd`).length;
    expect(open).toBeGreaterThan(120);
    expect(open).toBeLessThan(140);
    const scrapes = await Promise.all(Array.from({ length: 12 }, () => agent.get('/metrics')));
    expect(scrapes.map(({ status }) => status)).toEqual(Array(12).fill(200));
    await agent.waitFor(/WARN descriptors are short: .* limit=256 kept_back=128$/, { timeout: 12_000 });
    expect((await ledger(agent, 'test', 12_000)).forwarded).toBe(12_000);
  });
});

describe.skipIf(obstacle)(title('userspace: downstreams that fail'), () => {
  test.each([
    ['refused', 'nat', ['ECONNREFUSED']],
    ['silent', 'nat', ['EAGAIN', 'EHOSTUNREACH']],
    ['silent', 'preserve', ['EAGAIN', 'EHOSTUNREACH']],
  ])('one that is %s (%s) is counted by name and delays nobody', async (kind, source, reasons) => {
    const share = 1000;
    loses('a socket tells of a refusal, or of a neighbour that never answers, after the send or not at all', {
      atMost: share,
    });
    const { client, node, pods } = built(singleNode());
    // Nobody listens on the pod's port 9; nobody answers for that neighbour.
    const address = { refused: '10.0.1.12:9', silent: '10.0.0.77:9' }[kind]!;
    const alive = pods.slice(0, 2);
    const agent = await started(node, [...alive.map((pod) => pod.address), address], { source });
    const at = await receivers(alive);
    const sent = await send(client, { to: '10.0.0.1:9000', from: CLIENT, count: 3000, rate: 20_000 });
    const start = performance.now();
    const report = await at.report({ expect: 2000 });
    expect(performance.now() - start).toBeLessThan(patient(1000));
    const [first, second] = report.receivers.map(({ count }) => count);
    expect(Math.abs(first! - second!)).toBeLessThanOrEqual(1);
    // One whose neighbour has not answered for a second is out, and the others have its share from then on.
    if (kind === 'refused') expect(report.count).toBe(2000);
    else expect(report.count).toBeGreaterThanOrEqual(2000);
    expect(union(report, sent)).toMatchObject({ received: report.count, duplicated: [] });
    const { forwarded, dropped } = await ledger(agent, 'test', 3000);
    expect(forwarded).toBeGreaterThanOrEqual(report.count);
    expect(Object.keys(dropped).filter((reason) => !reasons.includes(reason))).toEqual([]);
    if (kind === 'refused') expect(dropped.ECONNREFUSED).toBeGreaterThan(0);
  });

  test.each(['nat', 'preserve'])(
    'one that no route leads to (%s) is out, and named where it is the last',
    async (source) => {
      const { client, node, pods } = built(singleNode());
      const alive = pods.slice(0, 2);
      const agent = await started(node, [...alive.map((pod) => pod.address), '203.0.113.1:9'], { source });
      const at = await receivers(alive);
      const sent = await send(client, { to: '10.0.0.1:9000', from: CLIENT, count: 3000, rate: 20_000 });
      const report = await at.report({ expect: 3000 });
      expect(report.receivers.map(({ count }) => count)).toEqual([1500, 1500]);
      expect(union(report, sent)).toEqual({ received: 3000, missing: [], duplicated: [] });
      expect(await ledger(agent, 'test', 3000)).toMatchObject({ forwarded: 3000, dropped: {} });
      await agent.stop();
      // With nobody else to send to it is tried all the same, and what fails has the kernel's reason.
      const alone = await started(node, ['203.0.113.1:9'], { source });
      await send(client, { to: '10.0.0.1:9000', from: CLIENT, count: 1000, rate: 20_000 });
      expect((await ledger(alone, 'test', 1000)).dropped).toEqual({ ENETUNREACH: 1000 });
    },
  );

  test.each(['userspace', 'tc_ebpf'])('a burst waits whole for a reader that sleeps (%s)', async (mode) => {
    const { node, pods } = built(singleNode());
    const base = listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods });
    const agent = startAgent(node, config({ ...base, mode, settings: { workers: 1 } } as typeof base));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(mode === 'userspace' ? WORKING : ATTACHED);
    const at = await receivers(pods);
    agent.kill('SIGSTOP');
    // From the node itself, so that the safety net has them too.
    const sent = await send(node, { to: '10.0.0.1:9000', from: '10.0.0.1:40000', count: 301, size: 1400, rate: 0 });
    agent.kill('SIGCONT');
    expect(union(await at.report({ expect: 301 }), sent)).toEqual({ received: 301, missing: [], duplicated: [] });
    expect(await ledger(agent, 'test', 301)).toMatchObject({ forwarded: 301, dropped: {} });
  });

  test('what finds the receive buffer full is received and dropped, with its reason', async () => {
    const { client, node, pods } = built(singleNode());
    const settings = { workers: 1, recv_buf_size: 64 << 10 };
    const agent = await started(
      node,
      pods.map(({ address }) => address),
      { settings },
    );
    const at = await receivers(pods);
    let arrived = 0;
    agent.kill('SIGSTOP');
    const many = await send(client, { to: '10.0.0.1:9000', from: CLIENT, count: 3000 });
    agent.kill('SIGCONT');
    arrived += (await at.report({ quiet: 200 })).count;
    // The kernel tells of what it dropped with the next datagram that it does not drop.
    const last = await send(client, { to: '10.0.0.1:9000', from: CLIENT, count: 10 });
    const after = await at.report({ expect: 10 });
    expect(union(after, last)).toEqual({ received: 10, missing: [], duplicated: [] });
    arrived += after.count;
    const count = many.count + last.count;
    const { forwarded, dropped } = await ledger(agent, 'test', 3010);
    expect(forwarded).toBe(arrived);
    expect(dropped).toEqual({ receive_buffer: count - arrived });
    expect(arrived).toBeLessThan(count);
  });
});

describe.skipIf(obstacle)(title('userspace: the start'), () => {
  test('under 20,000 datagrams a second none is lost from the first one on that is taken', async () => {
    const { client, node, pods } = built(singleNode());
    const at = await receivers(pods);
    const from = Array.from({ length: 20 }, (_, i) => `10.0.0.9:${40000 + i}`);
    const sending = await startSending(client, { to: '10.0.0.1:9000', from, rate: 20_000 });
    // Room for less than what comes while a thread starts.
    const settings = { workers: 2, recv_buf_size: 512 << 10 };
    const agent = await started(
      node,
      pods.map(({ address }) => address),
      { settings },
    );
    await pause(300);
    const sent = await sending.stop();
    const report = await at.report({ expect: sent.count, quiet: 300 });
    const { missing, duplicated } = union(report, sent);
    expect(duplicated).toEqual([]);
    // Of each source what was sent before the socket was bound, and no more.
    expect(missing.filter(({ first }) => first !== 0)).toEqual([]);
    expect(missing).toHaveLength(from.length);
    const early = missing.reduce((sum, { last }) => sum + last + 1, 0);
    loses('the first ones are there before the agent is', { atMost: early });
    expect(await ledger(agent, 'test', report.count)).toMatchObject({ forwarded: report.count, dropped: {} });
  });
});

describe.skipIf(obstacle)(title('userspace: a worker that hangs'), () => {
  test('one of two: the agent serves its socket within two seconds, and then another worker', async () => {
    const workers = 2;
    const { client, node, pods } = built(singleNode());
    const agent = await started(
      node,
      pods.map(({ address }) => address),
      { settings: { workers } },
    );
    const at = await receivers(pods);
    const from = Array.from({ length: 20 }, (_, i) => `10.0.0.9:${40000 + i}`);
    const sending = await startSending(client, { to: '10.0.0.1:9000', from, rate: 4000 });
    const [thread = ''] = readdirSync(`/proc/${agent.pid}/task`).filter((id) =>
      readFileSync(`/proc/${agent.pid}/task/${id}/comm`, 'utf8').startsWith('udp-fanout-0'),
    );
    const release = holdThread(Number(thread));
    // An agent does not end while one of its threads is held.
    cleanUps.push(release);
    const held = performance.now();
    await agent.waitFor(/ERROR userspace worker hangs/);
    expect(performance.now() - held).toBeLessThan(patient(2000));
    await pause(500);
    // All that waited in its socket has arrived, but for what it has in hand.
    const soFar = (await at.peek()).count;
    expect(soFar).toBeGreaterThan(4000);
    cleanUps.pop();
    release();
    await agent.waitFor(/ERROR userspace worker died .*restart_ms=100/);
    await pause(1000);
    const sent = await sending.stop();
    const report = await at.report({ expect: sent.count, quiet: 300 });
    expect(union(report, sent).duplicated).toEqual([]);
    // That it forwards as soon as it can, or it is in the books: at most a batch.
    const { forwarded, dropped } = await ledger(agent, 'test', sent.count);
    const { worker_died: inHand = 0, ...others } = dropped;
    expect([forwarded, others]).toEqual([report.count, {}]);
    expect(inHand).toBeLessThanOrEqual(64);
    expect((await agent.metrics()).get('udp_fanout_worker_deaths_total{listener="test"}')).toBe(1);
  });
});

describe.skipIf(obstacle)(title('userspace: tables'), () => {
  const BASE = aListener({
    mode: 'userspace',
    interfaces: [],
    settings: { maxPacketSize: 9000, batchSize: 64, workers: 2, recvBufSize: 64 << 20, maxSources: 16, pinCpus: false },
  });

  /** A datapath in this process, its threads and sockets in the node's namespace; and a way to apply downstreams. */
  function inProcess(node: Host, options: { startThread?: StartThread } = {}) {
    const log = aLog();
    const inNode =
      <A extends unknown[]>(open: (...args: A) => number) =>
      (...args: A) =>
        node.namespace.inside(() => open(...args));
    // What this thread opens later on is the node's too.
    const senders = { nat: inNode(SENDERS.nat), raw: inNode(SENDERS.raw), client: inNode(SENDERS.client) };
    const datapath = openUserspaceDatapath({ log, senders, ...options });
    cleanUps.push(async () => {
      datapath.remove();
      await until('no worker is left', () => threads() === 0);
    });
    const apply = (ips: readonly string[], listeners: readonly Listener[] = [BASE]) => {
      const tables = [
        buildTable(
          4,
          ips.map((ip) => anEndpoint(ip, 9000)),
        ),
      ];
      const addresses = [{ family: 4, ip: '10.0.0.1' }] as const;
      return node.namespace.inside(() =>
        datapath.apply({
          addresses,
          listeners: listeners.map((one) => ({ listener: one, interfaces: [], absent: [], tables })),
        }),
      );
    };
    /** A worker may take long to begin, as a thread does on a busy machine: what waits for it is not lost. */
    const forwarded = (name: string, count: number) =>
      until(
        `${count} datagrams forwarded by ${name}`,
        () => datapath.counters().find(({ listener }) => listener.name === name)!.forwarded >= count,
        { limit: 20_000 },
      );
    return { datapath, log, apply, forwarded };
  }

  /** Open sockets of this process but for those of its children's standard streams. */
  function sockets(): number {
    const unix = readFileSync('/proc/self/net/unix', 'utf8');
    return readdirSync('/proc/self/fd').filter((fd) => {
      try {
        const [, inode] = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`)) ?? [];
        return inode !== undefined && !unix.includes(` ${inode}`);
      } catch {
        return false;
      }
    }).length;
  }

  /** Workers of this process, by the names of their threads. */
  function threads(): number {
    return readdirSync('/proc/self/task').filter((thread) => {
      try {
        return readFileSync(`/proc/self/task/${thread}/comm`, 'utf8').startsWith('udp-fanout-');
      } catch {
        return false;
      }
    }).length;
  }

  test('a worker that dies is started again, and what waited for it is forwarded', async () => {
    const { client, node, pods } = built(singleNode());
    let starts = 0;
    const brokenAtFirst: StartThread = (job) =>
      // In the node's namespace as well, where the first ones were started from.
      ++starts > 2
        ? node.namespace.inside(() => startThread(job))
        : new Worker('throw new Error("broken")', { eval: true });
    const { datapath, log, apply } = inProcess(node, { startThread: brokenAtFirst });
    expect(apply(pods.map(({ ip }) => ip))).toEqual([]);
    const at = await receivers(pods);
    const sent = await send(client, { to: '10.0.0.1:9000', from: CLIENT, count: 300 });
    expect(union(await at.report({ expect: 300 }), sent)).toEqual({ received: 300, missing: [], duplicated: [] });
    expect(datapath.counters()).toMatchObject([{ received: 300, forwarded: 300, workerDeaths: 2 }]);
    const deaths = log.lines.filter((line) => line.startsWith('ERROR userspace worker died'));
    expect(deaths).toHaveLength(2);
  });

  test('a worker that is ended leaves no socket behind, whatever it had open', async () => {
    const { client, node, pods } = built(singleNode());
    const workers: (ReturnType<typeof startThread> & { state: ThreadState })[] = [];
    const kept: StartThread = (job) => {
      const thread = node.namespace.inside(() => startThread(job));
      workers.push(Object.assign(thread, { state: new ThreadState(job.state) }));
      return thread;
    };
    const { datapath, log, apply, forwarded } = inProcess(node, { startThread: kept });
    const at = await receivers(pods);
    const before = sockets();
    expect(apply(pods.map(({ ip }) => ip))).toEqual([]);
    const opened = sockets();
    const deaths = 3;
    for (let death = 0; death < deaths; death++) {
      // Clients' sockets for those that send several at once, raw ones for the rest.
      const from = Array.from({ length: 8 }, (_, i) => `10.9.${death}.${i}:20000`);
      // They are there, and whoever stood in for them has gone: it is the workers that open sockets for these.
      await until('both workers receive', () => workers.slice(-2).every(({ state }) => state.ready));
      await until('only the listener’s and its workers’ are open', () => sockets() === opened);
      const sent = await send(client, { to: '10.0.0.1:9000', from, count: 320, segments: 20 });
      await forwarded('listener-0', (death + 1) * 320);
      expect(union(await at.report({ expect: 320 }), sent)).toEqual({ received: 320, missing: [], duplicated: [] });
      expect(sockets()).toBeGreaterThan(opened);
      for (const worker of workers.slice(-2)) worker.terminate();
      await until('both workers are started again', () => workers.length === 2 * (death + 2));
    }
    expect(datapath.counters()).toMatchObject([{ forwarded: deaths * 320, workerDeaths: deaths * 2 }]);
    expect(log.lines.filter((line) => line.startsWith('ERROR userspace worker died'))).toHaveLength(deaths * 2);
    // Those of whoever stood in for them go when they are back.
    await until('only the listener’s and its workers’ are open', () => sockets() === opened);
    datapath.remove();
    await until('every socket is closed', () => sockets() === before);
  });

  test('under 20,000 datagrams a second none is lost when it opens anew on other terms', async () => {
    const { client, node, pods } = built(singleNode());
    const { apply, datapath } = inProcess(node);
    const ips = pods.map(({ ip }) => ip);
    const terms = [2, 3, 1, 2, 1].map((workers) => ({ ...BASE, settings: { ...BASE.settings, workers } }));
    apply(ips, [terms[0]!]);
    const at = await receivers(pods);
    const from = Array.from({ length: 20 }, (_, i) => `10.0.0.9:${40000 + i}`);
    const sending = await startSending(client, { to: '10.0.0.1:9000', from, rate: 20_000 });
    for (const one of terms.slice(1)) {
      expect(apply(ips, [one])).toEqual([]);
      await pause(300);
    }
    const sent = await sending.stop();
    const report = await at.report({ expect: sent.count });
    expect(union(report, sent)).toEqual({ received: sent.count, missing: [], duplicated: [] });
    expect(datapath.counters()).toMatchObject([{ received: sent.count, forwarded: sent.count, workerDeaths: 0 }]);
  });

  test('under 20,000 datagrams a second none is lost for a listener while others come to its threads and go', async () => {
    const { client, node, pods } = built(singleNode());
    const { apply, datapath } = inProcess(node);
    const ips = pods.map(({ ip }) => ip);
    const others = Array.from({ length: 12 }, (_, index) => {
      const settings = { ...BASE.settings, batchSize: [64, 16, 200][index % 3]!, workers: 1 + (index % 2) };
      const source = index % 2 === 0 ? ('nat' as const) : ('preserve' as const);
      const name = `other-${index}`;
      return { ...BASE, id: index + 1, name, source, settings, bind: { ...BASE.bind, port: 9001 + index } };
    });
    apply(ips);
    const at = await receivers(pods);
    const from = Array.from({ length: 20 }, (_, i) => `10.0.0.9:${40000 + i}`);
    const sending = await startSending(client, { to: '10.0.0.1:9000', from, rate: 20_000 });
    for (const count of [1, 12, 3, 0, 12, 0]) {
      expect(apply(ips, [BASE, ...others.slice(0, count)])).toEqual([]);
      expect(threads()).toBe(2);
      await pause(200);
    }
    const sent = await sending.stop();
    const report = await at.report({ expect: sent.count });
    expect(union(report, sent)).toEqual({ received: sent.count, missing: [], duplicated: [] });
    expect(datapath.counters()).toMatchObject([{ received: sent.count, forwarded: sent.count, workerDeaths: 0 }]);
  });

  test('where a thread cannot be started none is left, nor a socket, and the next try serves all', async () => {
    const { client, node, pods } = built(singleNode());
    let starts = 0;
    const scarce: StartThread = (job) => {
      if (++starts === 2) throw new Error('EAGAIN');
      return node.namespace.inside(() => startThread(job));
    };
    const { apply, forwarded } = inProcess(node, { startThread: scarce });
    const before = sockets();
    expect(apply(pods.map(({ ip }) => ip))).toEqual([
      { subject: 'listener(listener-0)', message: expect.stringMatching(/^failed to start worker 1: EAGAIN: /) },
    ]);
    await until('the first one is gone', () => sockets() === before && threads() === 0);
    expect(apply(pods.map(({ ip }) => ip))).toEqual([]);
    const at = await receivers(pods);
    const from = Array.from({ length: 16 }, (_, i) => `10.0.0.9:${40000 + i}`);
    const sent = await send(client, { to: '10.0.0.1:9000', from, count: 320 });
    await forwarded('listener-0', 320);
    expect(union(await at.report({ expect: 320 }), sent)).toEqual({ received: 320, missing: [], duplicated: [] });
  });

  test(
    'a listener is known by its name: it moves with its counters, and goes with all that it had',
    async () => {
      const { client, node, pods } = built(singleNode());
      const ips = pods.map(({ ip }) => ip);
      const other = { ...BASE, id: 1, name: 'other', bind: { ...BASE.bind, port: 9001 } };
      const { datapath, apply, forwarded } = inProcess(node);
      const at = await receivers(pods);
      const before = sockets();
      const through = async (port: number, name: string, total: number) => {
        const sent = await send(client, { to: `10.0.0.1:${port}`, from: CLIENT, count: 30 });
        await forwarded(name, total);
        expect(union(await at.report({ expect: 30 }), sent)).toEqual({ received: 30, missing: [], duplicated: [] });
      };
      const counted = () =>
        Object.fromEntries(
          datapath.counters().map(({ listener: { name }, forwarded, downstreams }) => {
            return [name, [forwarded, [...downstreams.values()].reduce((sum, count) => sum + count, 0)]];
          }),
        );
      apply(ips, [BASE, other]);
      await through(9000, 'listener-0', 30);
      await through(9001, 'other', 30);
      expect(counted()).toEqual({ 'listener-0': [30, 30], other: [30, 30] });
      // Another place in the file, and another port; with the tables left out, as they are where nothing is new.
      apply(ips, [
        { ...other, id: 0, bind: { ...BASE.bind, port: 9002 } },
        { ...BASE, id: 1 },
      ]);
      await through(9002, 'other', 60);
      await through(9000, 'listener-0', 60);
      expect(counted()).toEqual({ 'listener-0': [60, 60], other: [60, 60] });
      // Other settings: the sockets of before are no more.
      apply(ips, [{ ...BASE, settings: { ...BASE.settings, workers: 1 } }]);
      await through(9000, 'listener-0', 90);
      expect(counted()).toEqual({ 'listener-0': [90, 90] });
      await until('one worker is left', () => threads() === 1);
      // The same name later is a new one.
      apply(ips, [other]);
      await through(9001, 'other', 30);
      expect(counted()).toEqual({ other: [30, 30] });
      apply(ips, []);
      expect(counted()).toEqual({});
      await until('nothing is left', () => sockets() === before && threads() === 0);
    },
    patient(90_000),
  );
});

describe.skipIf(obstacle)(title('the safety net under the kernel path'), () => {
  const rowsOf = async (agent: Agent, what: string) => {
    const metrics = await agent.metrics();
    const row = (mode: string) => metrics.get(`udp_fanout_packets_${what}_total{listener="test",mode="${mode}"}`);
    return { tc_ebpf: row('tc_ebpf'), userspace: row('userspace') };
  };
  async function attached(node: Host, downstream: readonly string[], keys: object = {}): Promise<Agent> {
    const base = listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream });
    const agent = startAgent(node, config({ ...base, ...keys, settings: SETTINGS } as typeof base));
    cleanUps.push(() => agent.stop());
    await agent.waitFor(ATTACHED);
    return agent;
  }

  test('a sender on the node itself reaches the downstreams, counted as userspace', async () => {
    const { node, pods } = built(singleNode());
    const agent = await attached(
      node,
      pods.map(({ address }) => address),
    );
    const at = await receivers(pods);
    const sent = await send(node, { to: '10.0.0.1:9000', from: '10.0.0.1:40000', count: 300 });
    const report = await at.report({ expect: 300 });
    expect(union(report, sent)).toEqual({ received: 300, missing: [], duplicated: [] });
    expect(report.receivers.map(({ count, sources }) => [count, sources])).toEqual(
      pods.map(() => [100, { '10.0.0.1:40000': 100 }]),
    );
    expect(await rowsOf(agent, 'received')).toEqual({ tc_ebpf: 0, userspace: 300 });
    expect(await rowsOf(agent, 'forwarded')).toEqual({ tc_ebpf: 0, userspace: 300 });
  });

  test('a program that is removed by hand is attached again, and meanwhile nothing is lost', async () => {
    const { client, node, pods } = built(singleNode());
    const agent = await attached(
      node,
      pods.map(({ address }) => address),
    );
    const at = await receivers(pods);
    const sending = await startSending(client, { to: '10.0.0.1:9000', from: CLIENT, rate: 5000, cpu: 0 });
    for (let times = 0; times < 3; times++) {
      const from = agent.lines.length;
      node.namespace.run('tc', ['filter', 'del', 'dev', 'eth0', 'ingress', 'pref', '49152']);
      await agent.waitFor(ATTACHED, { from });
    }
    const sent = await sending.stop();
    const report = await at.report({ expect: sent.count });
    expect(union(report, sent)).toEqual({ received: sent.count, missing: [], duplicated: [] });
    const received = await rowsOf(agent, 'received');
    expect(received.userspace).toBeGreaterThan(0);
    expect(received.tc_ebpf! + received.userspace!).toBe(sent.count);
    await ledger(agent, 'test', sent.count);
  });

  test('as long as no program can be attached /readyz says so, and the listener works', async () => {
    const { client, node, pods } = built(singleNode());
    const agent = await attached(
      node,
      pods.map(({ address }) => address),
    );
    // Before Linux 6.2 an interface that is up keeps its name.
    const rename = (from: string, to: string) =>
      node.namespace.ip([`link set ${from} down`, `link set ${from} name ${to}`, `link set ${to} up`]);
    rename('eth0', 'lan0');
    await agent.waitFor(/ERROR interface not found: eth0/);
    expect(await agent.get('/readyz')).toMatchObject({ status: 503, body: 'not ready: attachment(eth0)\n' });
    const at = await receivers(pods);
    const sent = await send(client, { to: '10.0.0.1:9000', from: CLIENT, count: 300 });
    expect(union(await at.report({ expect: 300 }), sent)).toMatchObject({ received: 300, missing: [] });
    expect(await rowsOf(agent, 'forwarded')).toEqual({ tc_ebpf: 0, userspace: 300 });
    const from = agent.lines.length;
    rename('lan0', 'eth0');
    await agent.waitFor(ATTACHED, { from });
    expect((await agent.get('/readyz')).status).toBe(200);
  });

  test('a VIP has it before it is on any interface', async () => {
    const { client, node, pods } = built(singleNode());
    const agent = await attached(
      node,
      pods.map(({ address }) => address),
      { bind: '10.7.7.7:9000' },
    );
    node.namespace.ip(['addr add 10.7.7.7/32 dev lo']);
    const at = await receivers(pods);
    const sent = await send(node, { to: '10.7.7.7:9000', from: '10.0.0.1:40000', count: 30 });
    expect(union(await at.report({ expect: 30 }), sent)).toMatchObject({ received: 30, missing: [] });
    const fromOutside = await send(client, { to: '10.7.7.7:9000', from: CLIENT, count: 30 });
    expect(union(await at.report({ expect: 30 }), fromOutside)).toMatchObject({ received: 30, missing: [] });
    expect(await rowsOf(agent, 'received')).toEqual({ tc_ebpf: 30, userspace: 30 });
  });

  test('is not in the way of a downstream on this host with the same port', async () => {
    const { client, node } = built(singleNode({ pods: 1 }));
    const agent = await attached(node, ['10.0.0.1:9000'], { bind: '10.7.7.7:9000' });
    await agent.waitFor(/INFO listener "test" has no safety net: a downstream on this host has its port/);
    const at = await receivers([node], { port: 9000 });
    client.namespace.ip(['route add 10.7.7.7/32 via 10.0.0.1']);
    const sent = await send(client, { to: '10.7.7.7:9000', from: CLIENT, count: 30 });
    expect(union(await at.report({ expect: 30 }), sent)).toMatchObject({ received: 30, missing: [] });
  });
});

describe.skipIf(obstacle)(title('mode auto'), () => {
  test('without capabilities falls back to userspace and nat, with one warning that says why', async () => {
    const { client, node, pods } = built(singleNode());
    const base = listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods });
    const under = ['setpriv', '--bounding-set', '-all', '--inh-caps', '-all'];
    const keys = { mode: 'auto', settings: { workers: 2 } };
    const agent = startAgent(node, config({ ...base, ...keys } as typeof base), { under });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(WORKING);
    const at = await receivers(pods);
    const sent = await send(client, { to: '10.0.0.1:9000', from: CLIENT, count: 300, rate: 2000 });
    const report = await at.report({ expect: 300 });
    expect(union(report, sent)).toEqual({ received: 300, missing: [], duplicated: [] });
    const sources = report.receivers.flatMap((receiver) => Object.keys(receiver.sources));
    expect(sources.every((source) => source.startsWith('10.0.0.1:'))).toBe(true);
    expect(agent.lines.filter((line) => / WARN | ERROR /.test(line))).toEqual([
      expect.stringMatching(
        /WARN listener "test" falls back to userspace: .*permission denied: missing capability BPF/,
      ),
    ]);
    expect(agent.lines.filter((line) => /sources are not preserved/.test(line))).toHaveLength(1);
    expect(await agent.get('/readyz')).toMatchObject({ status: 200 });
    const { code, ms } = await agent.stop();
    expect(code).toBe(0);
    expect(ms).toBeLessThan(patient(2000));
  });

  test('an interface that takes no program is served by userspace, sources intact', async () => {
    const { client, node, pods } = built(singleNode());
    const base = listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods });
    const keys = { mode: 'auto', settings: { workers: 1 } };
    const args = ['--ebpf-program', '/nowhere/udp_fanout.bpf.o'];
    const agent = startAgent(node, config({ ...base, ...keys } as typeof base), { args });
    cleanUps.push(() => agent.stop());
    await agent.waitFor(/WARN listener "test" falls back to userspace: BPF object "\/nowhere/);
    await agent.waitFor(WORKING);
    const at = await receivers(pods);
    await send(client, { to: '10.0.0.1:9000', from: CLIENT, count: 300, rate: 2000 });
    const report = await at.report({ expect: 300 });
    expect(report.receivers.map(({ sources }) => sources)).toEqual(pods.map(() => ({ [CLIENT]: 100 })));
  });

  test('a port that another process has is a problem with a name', async () => {
    const { node, pods } = built(singleNode());
    const taken = node.namespace.inside(() => {
      const fd = socket(AF.INET, SOCK.DGRAM);
      bind(fd, encodeSockaddr(parseAddress('0.0.0.0:9000')));
      return fd;
    });
    expect(taken).toBeGreaterThan(0);
    const base = listener({ bind: '0.0.0.0:9000', interface: 'eth0', downstream: pods });
    const agent = startAgent(node, config({ ...base, mode: 'userspace' } as typeof base));
    expect((await agent.ended).code).toBe(1);
    expect(agent.lines.at(-1)).toMatch(
      /ERROR failed to open listener "test" on 0.0.0.0:9000: bind: EADDRINUSE: another process has the port/,
    );
  });
});
