/**
 * The promise of a swap, on both datapaths: once it has returned, nothing goes to a downstream that it removed. Held by
 * when the kernel was handed each datagram for its pod, which is inside the forwarder's own call: a datagram that was
 * sent before and waits in a backlog or a socket, where a busy machine keeps it for many milliseconds, is not late.
 * Counting what a receiver has read before and after is therefore no measure: it once showed 64 late ones where none was.
 */
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { Datapath, Interface } from '../../agent/datapath/datapath.ts';
import { openTcDatapath } from '../../agent/datapath/tc/datapath.ts';
import { egressLookup, wayLookup } from '../../agent/datapath/tc/egress.ts';
import { openUserspaceDatapath } from '../../agent/datapath/userspace/datapath.ts';
import type { Listener } from '../../agent/model.ts';
import { openHost } from '../../agent/netlink/host.ts';
import { findLink } from '../../agent/netlink/link.ts';
import { buildTable } from '../../agent/table.ts';
import type { Host } from '../../lab/host.ts';
import { titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { realTime } from '../../lab/libc.ts';
import { patient, until } from '../../lab/patience.ts';
import { sleepSync } from '../../lab/processes.ts';
import { singleNode } from '../../lab/single-node.ts';
import { receive, startSending } from '../../lab/traffic.ts';
import { union } from '../../lab/union.ts';
import { aListener, aLog, anEndpoint } from '../fake/words.ts';

const OBJECT = process.env.UDP_FANOUT_OBJECT ?? join(import.meta.dirname, '../../dist/udp_fanout.bpf.o');
const SETTINGS = { maxPacketSize: 9000, batchSize: 64, workers: 2, recvBufSize: 64 << 20, maxSources: 16 };

const STARVED = /^a worker of listener "listener-0" did not take the new downstreams in time$/;
const TRIES = 20;
/** A few seconds on a machine that does nothing else, a minute on one that does. */
const LONG = { timeout: patient(120_000) };

const obstacle = labObstacle();
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** One listener's datapath in this process, and whatever of it is of a network in the node's. */
interface Opened {
  readonly listener: Listener;
  readonly datapath: Datapath;
  readonly interfaces: readonly Interface[];
}

function userspace(log: ReturnType<typeof aLog>): Opened {
  const listener = aListener({ mode: 'userspace', interfaces: [], settings: { ...SETTINGS, pinCpus: false } });
  return { listener, datapath: openUserspaceDatapath({ log }), interfaces: [] };
}

function kernelPath(log: ReturnType<typeof aLog>): Opened {
  const listener = aListener();
  const host = openHost();
  cleanUps.push(() => host.close());
  const datapath = openTcDatapath({
    log,
    objectPath: OBJECT,
    filters: (index, side) => host.filters(index, side),
    links: () => [],
    leaseSecs: () => 0,
    ways: () => wayLookup(host),
    neighbours: host,
    egressLookup: (interfaces) => egressLookup(host, interfaces),
  });
  return { listener, datapath, interfaces: [{ name: 'eth0', index: findLink(host.links(), 'eth0')!.index }] };
}

/** When a pod was in no table: from a swap's return to the next one's begin, in microseconds since 1970. */
interface Absence {
  readonly pod: number;
  readonly from: number;
  readonly to: number;
}

function swapper(node: Host, open: (log: ReturnType<typeof aLog>) => Opened) {
  const log = aLog();
  const inside = <T>(work: () => T) => node.namespace.inside(work);
  const { listener, datapath, interfaces } = inside(() => open(log));
  cleanUps.push(() => inside(() => datapath.remove()));
  const addresses = [{ family: 4, ip: '10.0.0.1' }] as const;
  const apply = (ips: readonly string[]) => {
    const tables = [
      buildTable(
        4,
        ips.map((ip) => anEndpoint(ip, 9000)),
      ),
    ];
    return inside(() => {
      const problems = datapath.apply({ addresses, listeners: [{ listener, interfaces, absent: [], tables }] });
      return { at: realTime(), problems: problems.map(({ message }) => message) };
    });
  };
  /** When the swap had returned. A worker whose turn does not come in 0.5 s is a problem by name: then once more. */
  const swap = (ips: readonly string[]): number => {
    for (let tries = 0; ; tries++) {
      const { at, problems } = apply(ips);
      if (problems.length === 0) return at;
      expect(problems.filter((message) => !STARVED.test(message))).toEqual([]);
      expect(tries).toBeLessThan(TRIES);
    }
  };
  return { log, swap, counters: () => datapath.counters()[0]! };
}

/** The times at which a receiver's datagrams were handed over, in ascending order. */
function sorted(times: string): Float64Array {
  const bytes = Uint8Array.from(Buffer.from(times, 'base64'));
  return new Float64Array(bytes.buffer).sort();
}

const within = (times: Float64Array, { from, to }: Absence) => times.filter((time) => time > from && time < to).length;

describe.skipIf(obstacle)(titled('swaps under load', obstacle), () => {
  test.each([
    ['userspace', userspace, 500],
    ['kernel path', kernelPath, 200],
  ] as const)('%s: no gap, no duplicate, and nothing to one that is gone', LONG, async (_, open, swaps) => {
    const topology = singleNode();
    cleanUps.push(() => topology.close());
    const { client, node, pods } = topology;
    // The safety net of a datapath in this process would send from this process's namespace: nothing may need it.
    node.namespace.ip(
      pods.map(({ ip, mac, hostInterface }) => `neigh replace ${ip} lladdr ${mac} dev ${hostInterface}`),
    );
    const { log, swap, counters } = swapper(node, open);
    swap(pods.map(({ ip }) => ip));
    const at = await receive(pods, { times: true });
    cleanUps.push(() => at.close());
    const sending = await startSending(client, { to: '10.0.0.1:9000', from: '10.0.0.9:40000', rate: 100_000 });
    const sees = async () => (await at.peek()).receivers.every(({ count }) => count > 0);
    await until('each pod has had a datagram', sees);

    const absences: Absence[] = [];
    for (let count = 0; count < swaps; count++) {
      const pod = count % pods.length;
      const from = swap(pods.filter((_, index) => index !== pod).map(({ ip }) => ip));
      const { forwarded } = counters();
      await until('a datagram by the new table', () => counters().forwarded > forwarded, { every: 1 });
      // The counters are read between two batches; a swap has to come in the middle of one.
      sleepSync(Math.random());
      absences.push({ pod, from, to: realTime() });
    }

    const sent = await sending.stop();
    const report = await at.report({ expect: sent.count });
    expect(union(report, sent)).toEqual({ received: sent.count, missing: [], duplicated: [] });
    expect(counters()).toMatchObject({ received: sent.count, forwarded: sent.count });
    expect(log.lines.filter((line) => !/updated \w+ downstream set|attached TC/.test(line))).toEqual([]);

    const times = report.receivers.map((receiver) => sorted(receiver.times));
    expect(times.map(({ length }) => length)).toEqual(report.receivers.map(({ count }) => count));
    const late = absences.filter((absence) => within(times[absence.pod]!, absence) > 0);
    expect(late, 'swaps after which a removed downstream was sent to').toEqual([]);
    // The others were, in each of these times.
    const others = absences.map((absence) =>
      times.reduce((sum, each, index) => sum + (index === absence.pod ? 0 : within(each, absence)), 0),
    );
    expect(Math.min(...others)).toBeGreaterThan(0);
  });
});
