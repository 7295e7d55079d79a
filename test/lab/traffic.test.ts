/** The lab's instruments: they see every fault of the traffic, make none themselves, and show the frames as they are. */
import { afterEach, describe, expect, it } from 'vitest';
import { calicoBgp } from '../../lab/calico-bgp.ts';
import { fragments4, fragments6, udp4, udp6 } from '../../lab/frame.ts';
import type { Topology } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { realTime } from '../../lab/libc.ts';
import { pause, until } from '../../lab/patience.ts';
import { numberedPayload } from '../../lab/payload.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, type Sent, send, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { capture, inject } from '../../lab/wire.ts';

const obstacle = labObstacle();
const title = (text: string) => titled(text, obstacle);
const NO_ERRORS = { InErrors: 0, InCsumErrors: 0, RcvbufErrors: 0, NoPorts: 0 };
const exactly = (sent: Sent) => ({ received: sent.count, missing: [], duplicated: [] });

let open: Topology[] = [];

function hold<T extends Topology>(topology: T): T {
  open.push(topology);
  return topology;
}

afterEach(() => {
  for (const topology of open) topology.close();
  open = [];
});

describe.skipIf(obstacle)(title('traffic'), () => {
  it('tells gaps, duplicates, disorder, damage, wrong checksums and closed ports', async () => {
    const { node, pods } = hold(singleNode({ pods: 1 }));
    const [pod] = pods;
    const receivers = await receive(pods);
    const from = { src: '10.0.0.9', dst: pod!.ip, sport: 1, dport: pod!.port, dmac: pod!.mac };
    const numbered = (sequence: number) => udp4({ ...from, payload: numberedPayload({ stream: 7, sequence }) });
    const damaged = numberedPayload({ stream: 7, sequence: 4 });
    damaged[40]! ^= 1;
    inject(node.namespace, pod!.hostInterface, [
      ...[0, 2, 2, 5, 3].map(numbered),
      udp4({ ...from, payload: damaged }),
      udp4({ ...from, csum: 'zero', payload: numberedPayload({ stream: 8, sequence: 0 }) }),
      udp4({ ...from, csum: 'wrong' }),
      udp4({ ...from, dport: 9 }),
    ]);
    const report = await receivers.report({ expect: 7 });
    expect(report).toMatchObject({ count: 7, payloadErrors: 1, errors: { InCsumErrors: 1, NoPorts: 1 } });
    expect(report.receivers[0]!.streams[0]).toMatchObject({
      ...{ stream: 7, count: 5, lowest: 0, highest: 5, gaps: 2, duplicates: 1, outOfOrder: 1 },
    });
    expect(union(report, { streams: [{ stream: 7, from: '', count: 5 }] })).toEqual({
      received: 3,
      missing: [
        { stream: 7, first: 1, last: 1 },
        { stream: 7, first: 4, last: 4 },
      ],
      duplicated: [
        { stream: 7, first: 2, last: 2 },
        { stream: 7, first: 5, last: 5 },
      ],
    });
  });

  it('loses nothing of 50000 datagrams from many sources, sent as fast as it goes', async () => {
    const { client, pods } = hold(singleNode({ pods: 1 }));
    const receivers = await receive(pods);
    const from = ['10.0.0.9:40000', '10.0.0.77:40000'];
    const sent = await send(client, { to: pods[0]!.address, from, streams: 6, count: 50_000, rate: 0, cpu: 0 });
    const report = await receivers.report({ expect: 50_000 });
    expect(union(report, sent)).toEqual(exactly(sent));
    expect(report).toMatchObject({ payloadErrors: 0, errors: NO_ERRORS });
    const ports = [40000, 40001, 40002];
    const expected = ports.flatMap((port) => [`10.0.0.77:${port}`, `10.0.0.9:${port}`]).sort();
    expect(Object.keys(report.receivers[0]!.sources).sort()).toEqual(expected);
  });

  it('sends large, fragmented and segmented datagrams whole', async () => {
    // Where checksums are computed here, no packet of many datagrams leaves before Linux 6.11: EIO.
    const { client, pods } = hold(singleNode({ pods: 1, checksums: 'offloaded' }));
    const receivers = await receive(pods);
    for (const options of [{ size: 1472 }, { size: 8000 }, { size: 1200, segments: 20 }]) {
      const sent = await send(client, { to: pods[0]!.address, count: 100, ttl: 9, ...options });
      const report = await receivers.report({ expect: 100 });
      expect(union(report, sent)).toEqual(exactly(sent));
      expect(report.receivers[0]).toMatchObject({ ttls: { 8: 100 }, bytes: 100 * options.size, payloadErrors: 0 });
    }
    const tooLarge = { to: pods[0]!.address, count: 3, size: 1473, dontFragment: true };
    const refused = await send(client, { ...tooLarge, mayFail: true });
    expect(refused).toMatchObject({ count: 0, failures: { EMSGSIZE: 3 } });
    expect(() => union([], refused)).toThrow('nothing was sent');
  });

  it('takes a send that fails for an error, at once and on the way, and names the errno', async () => {
    const { client, pods } = hold(singleNode({ pods: 1 }));
    const to = pods[0]!.address;
    const tooLarge = { to, count: 3, size: 1473, dontFragment: true };
    const refused = `send to ${to}: 0 datagrams left, 3 were meant to; EMSGSIZE for 1`;
    await expect(send(client, tooLarge)).rejects.toThrow(refused);
    await expect(startSending(client, { ...tooLarge, least: 3 })).rejects.toThrow(refused);
    const sending = await startSending(client, { to, rate: 5000 });
    client.namespace.ip(['link set eth0 down']);
    await expect(sending.done).rejects.toThrow(/ were meant to; ENETUNREACH for 1$/);
  });

  it('sends what it has to, even if it is told at once to stop', async () => {
    const { client, pods } = hold(singleNode({ pods: 1 }));
    const receivers = await receive(pods);
    const sending = await startSending(client, { to: pods[0]!.address, rate: 1000, least: 200 });
    const sent = await sending.stop();
    expect(sent.count).toBeGreaterThanOrEqual(200);
    expect(union(await receivers.report({ expect: sent.count }), sent)).toEqual(exactly(sent));
  });

  it('sees when each datagram was handed over, however late it is read', async () => {
    const { client, pods } = hold(singleNode({ pods: 1 }));
    await using receivers = await receive(pods, { times: true });
    const before = realTime();
    const sent = await send(client, { to: pods[0]!.address, count: 100 });
    const after = realTime();
    const report = await receivers.report({ expect: 100 });
    expect(union(report, sent)).toEqual(exactly(sent));
    const bytes = Uint8Array.from(Buffer.from(report.receivers[0]!.times, 'base64'));
    const times = [...new Float64Array(bytes.buffer)];
    expect(times).toHaveLength(100);
    expect(Math.min(...times)).toBeGreaterThan(before);
    expect(Math.max(...times)).toBeLessThan(after);
  });

  it('a glance sees all that waits in a socket', async () => {
    const { client, pods } = hold(singleNode({ pods: 1 }));
    await using receivers = await receive(pods);
    await send(client, { to: pods[0]!.address, count: 20_000, rate: 0 });
    // The receiver reads 32 at a time; what is on its way to the socket arrives meanwhile.
    await pause(100);
    expect((await receivers.peek()).count).toBe(20_000);
  });

  it('keeps its rate, and stops when told to', async () => {
    const { client, pods } = hold(singleNode({ pods: 1 }));
    const receivers = await receive(pods);
    const paced = await send(client, { to: pods[0]!.address, count: 200, rate: 1000 });
    expect(paced.ms).toBeGreaterThan(190);
    await receivers.report({ expect: 200 });
    const sending = await startSending(client, { to: pods[0]!.address, rate: 5000 });
    await until('100 datagrams', async () => (await receivers.peek()).count >= 100);
    const sent = await sending.stop();
    expect(union(await receivers.report({ expect: sent.count }), sent)).toEqual(exactly(sent));
  });
});

describe.skipIf(obstacle)(title('the wire'), () => {
  it('shows what the node did to a datagram', async () => {
    const { client, pods } = hold(singleNode());
    using tap = capture(pods[0]!.namespace, 'eth0', ({ udp }) => udp?.dport === 9000);
    inject(client.namespace, 'eth0', [udp4({ src: '10.0.0.9', dst: pods[0]!.ip, sport: 7, dport: 9000, ttl: 5 })]);
    const [frame] = await tap.frames({ expect: 1 });
    expect(frame).toMatchObject({
      ...{ direction: 'in', smac: '02:00:00:00:02:0a', dmac: pods[0]!.mac },
      ip: { src: '10.0.0.9', ttl: 4, checksum: 'valid' },
      udp: { sport: 7, checksum: 'valid' },
    });
    // Nobody listens there, and the pod's answer finds its way back.
    expect(client.namespace.counters().get('IcmpInDestUnreachs')).toBe(1);
  });

  it('carries VLAN tags and fragments', async () => {
    const { client, node, pods } = hold(singleNode());
    const receivers = await receive(pods);
    using tap = capture(node.namespace, 'eth0', ({ ip }) => ip?.src === '10.0.0.9');
    const to = { src: '10.0.0.9', dst: pods[1]!.ip, sport: 7, dport: 9000 };
    const payload = numberedPayload({ stream: 1, sequence: 0 }, 3000);
    inject(client.namespace, 'eth0', [udp4({ ...to, vlan: 100 }), ...fragments4({ ...to, payload })]);
    const frames = await tap.frames({ expect: 4 });
    expect(frames.map(({ vlan }) => vlan)).toEqual([100, undefined, undefined, undefined]);
    expect(frames.map(({ ip }) => ip?.fragment?.offset)).toEqual([undefined, 0, 1480, 2960]);
    expect(await receivers.report({ expect: 1 })).toMatchObject({ count: 1, payloadErrors: 0, errors: NO_ERRORS });
  });

  it('tells a checksum that is left to hardware from one that is right', async () => {
    for (const checksums of ['offloaded', 'computed'] as const) {
      const { client, node, pods } = hold(singleNode({ pods: 1, checksums }));
      using tap = capture(node.namespace, 'eth0', ({ udp }) => udp !== undefined);
      await send(client, { to: pods[0]!.address, count: 1 });
      const [frame] = await tap.frames({ expect: 1 });
      expect(frame?.udp?.checksum).toBe(checksums === 'offloaded' ? 'partial' : 'valid');
    }
  });

  it('takes IPv6 with extension headers, and in fragments', async () => {
    const { client, a, pods } = hold(calicoBgp());
    const receivers = await receive(pods);
    const payload = numberedPayload({ stream: 1, sequence: 0 });
    const to = { dmac: pods[0].mac, src: client.ip, dst: pods[0].ip, sport: 7, dport: 5514, payload };
    const chains = [['hop-by-hop'], ['routing'], ['destination'], ['hop-by-hop', 'destination']] as const;
    const frames = chains.map((types) => udp6({ ...to, extensions: types.map((type) => ({ type, words: 2 })) }));
    const whole = { ...to, payload: numberedPayload({ stream: 1, sequence: 0 }, 3000) };
    inject(a.namespace, 'caliA', [...frames, ...fragments6(whole)]);
    expect(await receivers.report({ expect: 5 })).toMatchObject({ count: 5, payloadErrors: 0, errors: NO_ERRORS });
  });
});
