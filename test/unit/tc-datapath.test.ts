/** The kernel path on a kernel of the test's own: the order of writes, what comes and goes with a listener, failures. */
import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { ipBytes } from '../../agent/address.ts';
import type { Interface } from '../../agent/datapath/datapath.ts';
import { CONSTANTS, encodePeerKey, LAYOUT } from '../../agent/datapath/tc/abi.ts';
import { openTcDatapath } from '../../agent/datapath/tc/datapath.ts';
import { wantedBinds, wantedPeers } from '../../agent/datapath/tc/matching.ts';
import { loadObject } from '../../agent/datapath/tc/object.ts';
import { cpuIds, possibleCpus } from '../../agent/ffi/libbpf.ts';
import type { Listener, SlotTable } from '../../agent/model.ts';
import { familiesOf } from '../../agent/model.ts';
import { buildTable } from '../../agent/table.ts';
import { FakeBpf } from '../fake/bpf.ts';
import { FakeProgramView } from '../fake/program.ts';
import { aListener, aLog, anEndpoint } from '../fake/words.ts';

const { EPERM, ENOMEM } = constants.errno;
/** Any file: what is in it the fake kernel says. */
const OBJECT = import.meta.filename;
const NODE = { family: 4, ip: '10.0.0.1' } as const;
const ETH0: Interface = { index: 2, name: 'eth0' };
const ETH1: Interface = { index: 3, name: 'eth1' };
/** A datagram to the first listener's port. */
const TO = { ...NODE, port: 9000 };

interface Plan {
  readonly listener: Listener;
  /** Undefined: not known yet. */
  readonly to?: readonly string[] | undefined;
  readonly tables?: readonly SlotTable[];
  readonly on?: readonly Interface[];
}

const first = aListener();
const second = aListener({ id: 1 });
const plan = (listener: Listener, ...to: string[]): Plan => ({ listener, to });

function tablesOf({ listener, to, tables }: Plan): readonly SlotTable[] {
  if (tables) return tables;
  return to
    ? familiesOf(listener).map((family) =>
        buildTable(
          family,
          to.map((ip) => anEndpoint(ip)),
        ),
      )
    : [];
}

function rig(bpf = new FakeBpf()) {
  const log = aLog();
  const asked = { ways: 0 };
  let now = 0;
  const datapath = openTcDatapath({
    log,
    objectPath: OBJECT,
    filters: bpf.filters,
    links: () => [ETH0, ETH1],
    leaseSecs: () => 300,
    egressLookup: () => ({ needed: () => false, find: () => void asked.ways++ }),
    ways: () => () => undefined,
    neighbours: { neighbour: () => undefined, use: () => {} },
    openSafetyNet: () => ({ refresh: () => {}, remove: () => {}, release: () => {} }),
    bpf,
    now: () => now,
  });
  const apply = (...plans: readonly Plan[]) =>
    datapath
      .apply({
        addresses: [NODE],
        listeners: plans.map((one) => ({
          listener: one.listener,
          interfaces: one.on ?? [ETH0],
          absent: [],
          tables: tablesOf(one),
        })),
      })
      .map(({ subject, message }) => `${subject}: ${message}`);
  /** What `look` saw while something was done: each change that a program could have seen, repetitions left out. */
  const seen = (look: () => string, work: () => unknown) => {
    const states = [look()];
    bpf.onChange = () => look() !== states.at(-1) && states.push(look());
    work();
    bpf.onChange = () => {};
    return states;
  };
  const view = new FakeProgramView(bpf);
  const pass = (ms: number) => {
    now += ms;
  };
  const counters = (name: string) => datapath.counters().find(({ listener }) => listener.name === name);
  return { bpf, log, asked, datapath, apply, seen, view, counters, pass };
}

describe('the order of writes', () => {
  const UP = ['', 'row', 'row table', 'row table bind', 'row table bind port', 'row table bind port attachment'];

  test('a listener that comes is there from the inside out', () => {
    const { apply, seen, view } = rig();
    const look = () => view.parts(first.bind, 0);
    expect(seen(look, () => apply(plan(first, '10.0.1.10')))).toEqual(UP);
  });

  test('a listener that goes is gone from the outside in', () => {
    const { apply, seen, view } = rig();
    apply(plan(first, '10.0.1.10'));
    expect(
      seen(
        () => view.parts(first.bind, 0),
        () => apply(),
      ),
    ).toEqual(UP.toReversed());
  });

  test('one of two goes, and the other has every datagram meanwhile', () => {
    const { apply, seen, view } = rig();
    apply(plan(first, '10.0.1.10'), plan(second, '10.0.1.11'));
    const gone = UP.slice(1, -1).map((parts) => `${parts} attachment`);
    expect(
      seen(
        () => view.parts(first.bind, 0),
        () => apply(plan(second, '10.0.1.11')),
      ),
    ).toEqual([...gone.toReversed(), 'attachment']);
    apply(plan(first, '10.0.1.10'), plan(second, '10.0.1.11'));
    const meets = () => view.meets({ ...TO, port: 9001 });
    expect(seen(meets, () => apply(plan(second, '10.0.1.11')))).toEqual(['10.0.1.11:9000']);
  });

  test('new downstreams are there at once, with nothing in between', () => {
    const { apply, seen, view } = rig();
    apply(plan(first, '10.0.1.10'));
    const meets = () => view.meets(TO);
    expect(seen(meets, () => apply(plan(first, '10.0.1.11')))).toEqual(['10.0.1.10:9000', '10.0.1.11:9000']);
    expect(seen(meets, () => apply(plan(first)))).toEqual(['10.0.1.11:9000', 'no downstream']);
  });

  test('no datagram meets half a listener, whatever changes', () => {
    const { apply, seen, view } = rig();
    const moved = aListener({ bind: { family: 4, ip: '0.0.0.0', port: 9005 } });
    const vip = aListener({ bind: { family: 4, ip: '10.9.9.9', port: 9000 } });
    const dual = aListener({ bind: { family: 6, ip: '::', port: 9000 } });
    const places = [TO, { ...TO, port: 9005 }, { ...TO, ip: '10.9.9.9' }];
    const steps: readonly (readonly Plan[])[] = [
      [plan(first, '10.0.1.10')],
      [plan(moved, '10.0.1.10'), plan(second, '10.0.1.11')],
      [plan(vip, '10.0.1.12')],
      [{ ...plan(dual, '10.0.1.10', 'fd00::10'), on: [ETH0, ETH1] }],
      [plan(first, '10.0.1.10')],
      [],
    ];
    const states = places.flatMap((to) =>
      steps.flatMap((plans) =>
        seen(
          () => view.meets(to),
          () => apply(...plans),
        ),
      ),
    );
    expect(new Set(states)).toEqual(new Set(['untouched', '10.0.1.10:9000', '10.0.1.12:9000']));
  });

  test('a listener under another name takes the datagrams over, none is missed', () => {
    const { apply, seen, view, counters } = rig();
    apply(plan(first, '10.0.1.10'));
    const renamed = aListener({ name: 'other' });
    expect(
      seen(
        () => view.meets(TO),
        () => apply(plan(renamed, '10.0.1.11')),
      ),
    ).toEqual(['10.0.1.10:9000', '10.0.1.11:9000']);
    expect([counters(first.name), counters('other')?.received]).toEqual([undefined, 0]);
  });

  test('a table that cannot be made keeps the bind away; the others come, and the retry brings it', () => {
    const { apply, bpf, view } = rig();
    bpf.fail('innerArrayCreate', ENOMEM, 1);
    expect(apply(plan(first, '10.0.1.10'), plan(second, '10.0.1.11'))).toEqual([
      'endpoints(listener-0): failed to update the downstreams of listener "listener-0": bpf_map_create of a slot table: ENOMEM',
    ]);
    expect([view.parts(first.bind, 0), view.meets({ ...TO, port: 9001 })]).toEqual([
      'row attachment',
      '10.0.1.11:9000',
    ]);
    expect(apply(plan(first, '10.0.1.10'), plan(second, '10.0.1.11'))).toEqual([]);
    expect(view.meets(TO)).toBe('10.0.1.10:9000');
  });

  test('a bind that has no room keeps its port closed, and one line says so', () => {
    const { apply, bpf, view } = rig();
    bpf.map('BINDS').maxEntries = 1;
    const plans = [plan(first, '10.0.1.10'), plan(second, '10.0.1.11')];
    expect(apply(...plans)).toEqual([
      'maps(BINDS): failed to update the maps: bpf_map_update_elem of BINDS: E2BIG: the map is full, it has room for 8192 entries',
    ]);
    expect([view.meets(TO), view.parts(second.bind, 1)]).toEqual(['10.0.1.10:9000', 'row table attachment']);
    bpf.map('BINDS').maxEntries = 2;
    expect([apply(...plans), view.meets({ ...TO, port: 9001 })]).toEqual([[], '10.0.1.11:9000']);
  });

  test('what cannot be taken away is taken away by the retry', () => {
    const { apply, bpf, view } = rig();
    apply(plan(first, '10.0.1.10'));
    bpf.fail('mapDelete', EPERM, 1);
    expect(apply()).toEqual(['maps(BINDS): failed to update the maps: bpf_map_delete_elem of BINDS: EPERM']);
    expect([apply(), view.parts(first.bind, 0)]).toEqual([[], '']);
  });
});

describe('rows', () => {
  test('are the lowest that are free, and start at zero', () => {
    const { apply, view, counters } = rig();
    apply(plan(first, '10.0.1.10'), plan(second, '10.0.1.11'));
    view.forwards(0, 5);
    view.forwards(1, 7);
    expect([counters('listener-0')?.received, counters('listener-1')?.received]).toEqual([5, 7]);
    const third = aListener({ id: 0, name: 'third', bind: { ...first.bind, port: 9002 } });
    apply(plan(second, '10.0.1.11'));
    apply(plan(third, '10.0.1.10'), plan(second, '10.0.1.11'));
    expect(view.parts(third.bind, 0)).toBe('row table bind port attachment');
    expect([counters('third')?.received, counters('listener-1')?.received]).toEqual([0, 7]);
    expect([...counters('third')!.downstreams]).toEqual([['10.0.1.10:9000', 0]]);
  });

  test('stay with the name, not with the place in the config', () => {
    const { apply, view, counters, log } = rig();
    apply(plan(first, '10.0.1.10'), plan(second, '10.0.1.11'));
    view.forwards(1, 7);
    apply(plan({ ...second, id: 0 }, '10.0.1.12'));
    expect(counters('listener-1')).toMatchObject({ received: 7, forwarded: 7 });
    expect(log.lines.at(-1)).toBe('INFO updated tc_ebpf downstream set listener_id=0 endpoints=1');
  });

  test('are there where they are allotted, and nowhere else', () => {
    const { apply, bpf } = rig();
    expect(bpf.map('STATS').entries.size).toBe(0);
    apply(plan(first), { listener: second });
    expect(bpf.map('STATS').entries.size).toBe(2);
    apply(plan(first));
    expect(bpf.map('STATS').entries.size).toBe(1);
  });

  test('are as many as the limits say; where all are taken, those that leave make room', () => {
    const { apply, datapath } = rig();
    const all = (of: string, count: number) =>
      Array.from({ length: count }, (_, id) => plan(aListener({ id, name: `${of}-${id}` }), '10.0.1.10'));
    expect(apply(...all('old', 256))).toEqual([]);
    expect(apply(...all('new', 256))).toEqual([]);
    expect(datapath.counters().map(({ listener }) => listener.name)).toContain('new-255');
    expect(apply(...all('new', 257))).toEqual([
      'listener(new-256): listener "new-256" has no place in the kernel path: there is room for 256 listeners',
    ]);
  });

  test('have a table for each family that the bind takes, and no longer', () => {
    const { apply, bpf } = rig();
    const dual = aListener({ bind: { family: 6, ip: '::', port: 9000 } });
    apply(plan(dual, '10.0.1.10', 'fd00::10'));
    expect([bpf.map('TABLES').entries.size, bpf.map('BINDS').entries.size]).toEqual([2, 2]);
    apply(plan(first, '10.0.1.10'));
    expect([bpf.map('TABLES').entries.size, bpf.map('BINDS').entries.size]).toEqual([1, 1]);
  });
});

describe('tables', () => {
  test('of a version that is there are not looked at again', () => {
    const { apply, asked, bpf } = rig();
    const table = buildTable(4, [anEndpoint('10.0.1.10'), anEndpoint('10.0.1.11')]);
    apply({ listener: first, tables: [table] });
    const open = bpf.descriptors;
    const before = asked.ways;
    apply({ listener: first, tables: [{ ...table, slots: [...table.slots] }] });
    expect([asked.ways, bpf.descriptors]).toEqual([before, open]);
    apply({ listener: first, tables: [buildTable(4, [anEndpoint('10.0.1.11')])] });
    expect(asked.ways).toBeGreaterThan(before);
  });

  test('that fail to be written leave no descriptor behind, however often', () => {
    const { apply, bpf } = rig();
    apply(plan(first, '10.0.1.10'));
    const open = bpf.descriptors;
    bpf.fail('mapUpdateBatch', ENOMEM);
    for (const ip of ['10.0.1.11', '10.0.1.12', '10.0.1.13']) {
      expect(apply(plan(first, ip))).toEqual([expect.stringContaining('bpf_map_update_batch of a slot table: ENOMEM')]);
    }
    expect(bpf.descriptors).toEqual(open);
    bpf.heal();
    expect([apply(plan(first, '10.0.1.11')), bpf.descriptors]).toEqual([[], open]);
  });

  test('that cannot be put in their place leave none either', () => {
    const { apply, bpf } = rig();
    apply(plan(first, '10.0.1.10'));
    const open = bpf.descriptors;
    bpf.fail('mapUpdate', EPERM, 1);
    expect(apply(plan(first, '10.0.1.11'))).toEqual([expect.stringContaining('bpf_map_update_elem of TABLES: EPERM')]);
    expect(bpf.descriptors).toEqual(open);
  });

  test('count by CPU id, where ids have gaps too', () => {
    const { apply, bpf, view, counters } = rig();
    apply(plan(first, '10.0.1.10', '10.0.1.11'));
    expect(bpf.ids).toBeGreaterThan(bpf.cpus);
    view.forwards(0, 3, { slot: 1, cpu: bpf.ids - 1 });
    view.forwards(0, 2, { slot: 1, cpu: 0 });
    expect([...counters('listener-0')!.downstreams]).toEqual([
      ['10.0.1.10:9000', 0],
      ['10.0.1.11:9000', 5],
    ]);
  });

  test('hand their counts on to the next', () => {
    const { apply, view, counters } = rig();
    apply(plan(first, '10.0.1.10', '10.0.1.11'));
    view.forwards(0, 3, { slot: 1 });
    apply(plan(first, '10.0.1.11'));
    view.forwards(0, 2);
    expect([...counters('listener-0')!.downstreams]).toEqual([['10.0.1.11:9000', 5]]);
  });
});

test.each([
  ['0\n', 1],
  ['0-3\n', 4],
  ['0-3,8-11\n', 12],
  ['0,2,4', 5],
])('CPUs %j have so many ids', (possible, ids) => {
  expect(cpuIds(possible)).toBe(ids);
  expect(cpuIds()).toBeGreaterThanOrEqual(possibleCpus());
});

describe('attachments', () => {
  const OURS = { bpfName: 'udp_fanout:[77]', bpfId: 77 };
  const FOREIGN = { bpfName: 'other', bpfId: 5, priority: 50_000 };
  const names = (bpf: FakeBpf) => bpf.filters(2).map(({ bpfName, priority }) => `${bpfName} ${priority}`);

  test('take the place of what a dead agent left, and its twins go; a stranger’s filter stays', () => {
    const { apply, bpf, log } = rig();
    bpf.addFilter(2, FOREIGN);
    bpf.addFilter(2, { ...OURS, priority: 49_000 });
    bpf.addFilter(2, { ...OURS, priority: 48_000 });
    const before = bpf.filters(2).length;
    expect(apply(plan(first, '10.0.1.10'))).toEqual([]);
    expect(before).toBe(3);
    expect(names(bpf)).toEqual(['other 50000', expect.stringMatching(/^udp_fanout:\[1\d+\] 49000$/)]);
    expect(log.lines.filter((line) => line.includes('attached'))).toHaveLength(1);
  });

  test('that somebody removed come back, and are left alone otherwise', () => {
    const { apply, bpf, seen, view, log } = rig();
    apply(plan(first, '10.0.1.10'));
    bpf.fail('tcAttach', EPERM);
    expect(apply(plan(first, '10.0.1.10'))).toEqual([]);
    bpf.heal();
    const [filter] = bpf.filters(2);
    bpf.tcDetach({ ifindex: 2, attach_point: 1 }, filter!.handle, filter!.priority);
    expect(
      seen(
        () => view.meets(TO),
        () => apply(plan(first, '10.0.1.10')),
      ),
    ).toEqual(['untouched', '10.0.1.10:9000']);
    expect(log.lines.filter((line) => line.includes('attached'))).toHaveLength(2);
  });

  test('that are refused are a problem by the interface, and the other interface goes on', () => {
    const { apply, bpf, view } = rig();
    bpf.fail('tcAttach', EPERM, 1);
    const both = { ...plan(first, '10.0.1.10'), on: [ETH0, ETH1] };
    expect(apply(both)).toEqual([
      expect.stringMatching(/^attachment\(eth0\): failed to attach TC program: .* interface="eth0"$/),
    ]);
    expect([view.meets(TO, 2), view.meets(TO, 3)]).toEqual(['untouched', '10.0.1.10:9000']);
    expect([apply(both), view.meets(TO, 2)]).toEqual([[], '10.0.1.10:9000']);
  });

  test('wait for a dead agent’s program as long as a listener waits for its downstreams, 30 s at most', () => {
    const { apply, bpf, pass } = rig();
    bpf.addFilter(2, OURS);
    const waiting = [plan(first, '10.0.1.10'), { listener: second }];
    apply(...waiting);
    expect(bpf.filters(2)).toMatchObject([{ bpfId: 77 }]);
    pass(29_999);
    apply(...waiting);
    expect(bpf.filters(2)).toMatchObject([{ bpfId: 77 }]);
    pass(1);
    apply(...waiting);
    expect(bpf.filters(2)).toMatchObject([{ bpfId: expect.any(Number), priority: 49152 }]);
    expect(bpf.filters(2)[0]!.bpfId).toBeGreaterThan(77);
  });

  test('wait for nobody else’s sake, whatever the time of day is set to', () => {
    const { apply, bpf } = rig();
    bpf.addFilter(2, OURS);
    apply(plan(first, '10.0.1.10'), plan(second, '10.0.1.11'));
    expect(bpf.filters(2)[0]!.bpfId).not.toBe(77);
  });

  test('go with their interface', () => {
    const { apply, bpf, log } = rig();
    apply(plan(first, '10.0.1.10'));
    bpf.removeInterface(2);
    expect(apply({ ...plan(first, '10.0.1.10'), on: [] })).toEqual([]);
    expect(log.lines.filter((line) => line.startsWith('WARN'))).toEqual([]);
  });
});

describe('the lease', () => {
  test('is renewed from the start, and by each sign of life', () => {
    const { bpf, datapath } = rig();
    expect(bpf.renewals).toBe(1);
    datapath.beat();
    expect(bpf.renewals).toBe(2);
  });
});

describe('the end', () => {
  test('removed: nothing of ours stays, nothing is open', () => {
    const { apply, bpf, datapath } = rig();
    bpf.addFilter(3, { bpfName: 'other', bpfId: 5 });
    apply({ ...plan(first, '10.0.1.10'), on: [ETH0, ETH1] });
    datapath.remove();
    expect([bpf.filters(2), bpf.filters(3).map(({ bpfName }) => bpfName), bpf.descriptors]).toEqual([
      [],
      ['other'],
      [],
    ]);
  });

  test('released: nothing is open, and datagrams go on', () => {
    const { apply, bpf, datapath, seen, view } = rig();
    apply(plan(first, '10.0.1.10'));
    expect(
      seen(
        () => view.meets(TO),
        () => datapath.release(),
      ),
    ).toEqual(['10.0.1.10:9000']);
    expect(bpf.descriptors).toEqual([]);
  });
});

describe('an agent before this one', () => {
  const went = (log: ReturnType<typeof aLog>) =>
    log.lines.filter((line) => /going on where|is replaced/.test(line)).map((line) => line.replace(/^INFO /, ''));

  test('has left what the next one goes on with: tables, counters, attachments; no datagram notices', () => {
    const one = rig();
    one.apply(plan(first, '10.0.1.10', '10.0.1.11'), plan(second, '10.0.1.12'));
    one.view.forwards(0, 3, { slot: 1 });
    one.apply(plan(first, '10.0.1.11'), plan(second, '10.0.1.12'));
    one.view.forwards(0, 2);
    const before = one.counters('listener-0')!;
    one.datapath.release();
    const next = rig(one.bpf);
    expect(went(next.log)).toEqual(['going on where an agent before this one has stopped listeners=2']);
    // Nobody knows its downstreams yet.
    const seen = next.seen(
      () => `${one.view.meets(TO)} ${one.view.meets({ ...TO, port: 9001 })}`,
      () => next.apply({ listener: first }, plan(second, '10.0.1.12')),
    );
    expect(seen).toEqual(['10.0.1.11:9000 10.0.1.12:9000']);
    expect(next.bpf.filters(2)).toHaveLength(1);
    expect(next.counters('listener-0')).toEqual(before);
    expect([...next.datapath.left(first, 4)!]).toEqual(['10.0.1.11:9000']);
    expect([next.datapath.leftLinks(first), next.datapath.leftLinks(second)]).toEqual([[ETH0], []]);
    next.apply(plan(first, '10.0.1.10', '10.0.1.11'), plan(second, '10.0.1.12'));
    expect([next.datapath.left(first, 4), next.datapath.leftLinks(first)]).toEqual([undefined, []]);
    const { downstreams, gone } = next.counters('listener-0')!;
    expect([...downstreams, ...gone]).toEqual([
      ['10.0.1.10:9000', 0],
      ['10.0.1.11:9000', 5],
    ]);
    next.datapath.remove();
    expect([next.bpf.filters(2), next.bpf.descriptors]).toEqual([[], []]);
  });

  test('has left listeners and interfaces that the config does not name any more: they go', () => {
    const one = rig();
    one.apply({ ...plan(first, '10.0.1.10'), on: [ETH0, ETH1] }, plan(second, '10.0.1.12'));
    one.datapath.release();
    const next = rig(one.bpf);
    next.apply(plan(second, '10.0.1.12'));
    expect([one.view.meets(TO), one.view.meets(TO, 3), one.view.meets({ ...TO, port: 9001 })]).toEqual([
      'untouched',
      'untouched',
      '10.0.1.12:9000',
    ]);
    expect(next.bpf.filters(3)).toEqual([]);
    expect(next.datapath.counters()).toHaveLength(1);
  });

  test('counts what went to downstreams that are gone, once and for all', () => {
    const one = rig();
    one.apply(plan(first, '10.0.1.10', '10.0.1.11'));
    one.view.forwards(0, 7);
    one.apply(plan(first, '10.0.1.11'));
    one.datapath.release();
    const next = rig(one.bpf);
    next.apply(plan(first, '10.0.1.11'));
    const { forwarded, downstreams, gone } = next.counters('listener-0')!;
    expect([forwarded, ...downstreams, ...gone]).toEqual([7, ['10.0.1.11:9000', 0], ['other', 7]]);
  });

  test.each([
    [
      'that may not be looked up',
      (bpf: FakeBpf) => bpf.fail('programFdById', EPERM),
      /the capability SYS_ADMIN is missing$/,
    ],
    [
      'whose maps cannot be taken',
      (bpf: FakeBpf) => bpf.fail('mapReuse', EPERM, 1),
      /bpf_map__reuse_fd of \w+: EPERM$/,
    ],
    [
      'whose second table cannot be read',
      (bpf: FakeBpf) => bpf.fail('mapLookupBatch', ENOMEM, 1, 4),
      /bpf_map_lookup_batch of a slot table: ENOMEM$/,
    ],
  ])('%s is replaced, and all begins anew', (_, spoil, why) => {
    const one = rig();
    one.apply(plan(first, '10.0.1.10'), plan(second, '10.0.1.12'));
    one.view.forwards(0, 7);
    one.datapath.release();
    spoil(one.bpf);
    const next = rig(one.bpf);
    expect(went(next.log)).toEqual([expect.stringMatching(why)]);
    next.apply(plan(first, '10.0.1.11'));
    expect([next.bpf.filters(2).length, next.counters('listener-0')!.forwarded]).toEqual([1, 0]);
    expect(next.view.meets(TO)).toBe('10.0.1.11:9000');
    next.datapath.remove();
    expect(next.bpf.descriptors).toEqual([]);
  });

  test('of another version is replaced, and all begins anew', () => {
    const bpf = new FakeBpf();
    bpf.addFilter(2, { bpfName: 'udp_fanout:[5]', bpfId: bpf.leftProgram({ abi: 3 }) });
    const next = rig(bpf);
    expect(went(next.log)).toEqual([expect.stringMatching(/: it is of version 3, this agent has version \d+$/)]);
    next.apply(plan(first, '10.0.1.10'));
    expect([next.bpf.filters(2).length, next.view.meets(TO)]).toEqual([1, '10.0.1.10:9000']);
  });
});

describe('the object where memory is limited', () => {
  const around = {
    release: () => '5.10.0',
    missing: () => [],
    memlock: () => ({ soft: 65536n, hard: 8388608n }),
    modulesDisabled: () => false,
  };

  test('leaves room for slot tables', () => {
    const bpf = new FakeBpf();
    bpf.fail('innerArrayCreate', EPERM, 1);
    const object = loadObject(OBJECT, bpf, around);
    expect([object.lessened, object.sizes.STATS, object.sizes.ADDRESSES]).toEqual([true, 256, 16384]);
    object.close();
    expect(bpf.descriptors).toEqual([]);
  });

  test('takes the smallest maps without that, and fails with the limit’s name where even they do not fit', () => {
    const bpf = new FakeBpf();
    bpf.fail('innerArrayCreate', EPERM);
    expect(loadObject(OBJECT, bpf, around).sizes.STATS).toBe(16);
    bpf.fail('objectLoad', EPERM);
    expect(() => loadObject(OBJECT, bpf, around)).toThrow(
      /^failed to load BPF object: no memory for maps: RLIMIT_MEMLOCK is 65536 bytes/,
    );
  });
});

describe('peers of receivers on this host', () => {
  const here = (ip: string) => ip === NODE.ip;
  const macs = new Map([
    ['10.0.0.2', { ifindex: 2, mac: '02:00:00:00:00:02' }],
    ['10.0.0.3', { ifindex: 3, mac: '02:00:00:00:00:03' }],
    ['10.0.0.4', { ifindex: 2, mac: '02:00:00:00:00:04' }],
  ]);
  const found = (listener: Listener, ...to: readonly (readonly [ip: string, port?: number])[]) => {
    const slots = to.map(([ip, port = 9000]) => anEndpoint(ip, port));
    const one = { listener, interfaces: [ETH0], absent: [], tables: [buildTable(4, slots)] };
    const peers = [...wantedPeers([one], here, ({ ip }) => macs.get(ip))];
    const binds = [...wantedBinds([one], () => 0, here)];
    return { peers, flags: binds.map(([, value]) => value[LAYOUT.bind.flags]) };
  };

  test('are the other hosts on the listener’s links with its own port', () => {
    const { peers, flags } = found(first, ['10.0.0.1'], ['10.0.0.2'], ['10.0.0.3'], ['10.0.0.4', 9001], ['10.0.0.9']);
    expect(flags).toEqual([CONSTANTS.BIND_SHARED]);
    const key = encodePeerKey({ ...NODE, port: 9000 }, 2, '02:00:00:00:00:02');
    expect(peers).toEqual([[key, ipBytes(4, '10.0.0.2')]]);
  });

  test('are none where this host has no such receiver, or the bind is not a wildcard', () => {
    expect(found(first, ['10.0.0.1', 9001], ['10.0.0.2'])).toEqual({ peers: [], flags: [0] });
    const specific = aListener({ bind: { ...NODE, port: 9000 } });
    expect(found(specific, ['10.0.0.1'], ['10.0.0.2'])).toEqual({ peers: [], flags: [0] });
  });
});
