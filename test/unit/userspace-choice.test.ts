/** Which datapath serves a listener: by its mode, and by what this machine can do. */
import { describe, expect, test } from 'vitest';
import { openDatapath } from '../../agent/datapath/composite.ts';
import type { Problem } from '../../agent/datapath/datapath.ts';
import type { Listener } from '../../agent/model.ts';
import { buildTable } from '../../agent/table.ts';
import { FakeDatapath } from '../fake/datapath.ts';
import { aListener, aLog, anEndpoint } from '../fake/words.ts';

const ATTACHMENT: Problem = { subject: 'attachment(eth0)', message: 'failed to attach TC program: EPERM' };

function rig(listeners: readonly Listener[], kernel: FakeDatapath | Error = new FakeDatapath()) {
  const log = aLog();
  const userspace = new FakeDatapath();
  let isSafetyNet: (listener: Listener) => boolean = () => false;
  const datapath = openDatapath({
    log,
    listeners,
    openKernel: () => {
      if (kernel instanceof Error) throw kernel;
      return kernel;
    },
    openUserspace: (asked) => {
      isSafetyNet = asked;
      return userspace;
    },
  });
  const apply = (tables = [buildTable(4, [anEndpoint('10.0.1.10')])]) =>
    datapath.apply({
      addresses: [],
      listeners: listeners.map((listener) => ({ listener, interfaces: [{ index: 2, name: 'eth0' }], tables })),
    });
  return { log, kernel, userspace, datapath, apply, isSafetyNet: (one: Listener) => isSafetyNet(one) };
}

const [tc, user, auto] = (['tc_ebpf', 'userspace', 'auto'] as const).map((mode, id) => aListener({ id, mode }));

describe('the choice of a datapath', () => {
  test('puts the safety net under what the kernel serves, and threads under the rest', () => {
    const { apply, isSafetyNet, kernel, userspace, log } = rig([tc!, user!, auto!]);
    expect(apply()).toEqual([]);
    expect([...(kernel as FakeDatapath).interfaces.keys()]).toEqual(['listener-0', 'listener-2']);
    expect([...userspace.interfaces.keys()]).toEqual(['listener-0', 'listener-1', 'listener-2']);
    expect([tc!, user!, auto!].map(isSafetyNet)).toEqual([true, false, true]);
    expect(log.lines).toEqual([]);
  });

  test('asks for no kernel path where every listener is of userspace', () => {
    const { apply, datapath } = rig([user!], new Error('must not be asked for'));
    expect(apply()).toEqual([]);
    expect(datapath.mode).toBe('userspace');
  });

  test('falls back where nothing attaches, with one warning, and stays there', () => {
    const { apply, isSafetyNet, kernel, log } = rig([auto!]);
    (kernel as FakeDatapath).problems = [ATTACHMENT];
    expect([apply(), apply()]).toEqual([[], []]);
    expect(log.lines).toEqual([
      'WARN listener "listener-2" falls back to userspace: failed to attach TC program: EPERM',
    ]);
    (kernel as FakeDatapath).problems = [];
    apply();
    expect(isSafetyNet(auto!)).toBe(false);
  });

  test('says a reason that several listeners share once, and remarks it for each', () => {
    const both = [auto!, aListener({ id: 3, mode: 'auto' })];
    const { apply, datapath, log } = rig(both, new Error('BPF object not found'));
    expect(datapath.remarks()).toEqual([]);
    apply();
    expect(log.lines).toEqual([
      'WARN listener "listener-2" falls back to userspace: BPF object not found',
      'WARN listener "listener-3" falls back to userspace: for the same reason',
    ]);
    expect(datapath.remarks()).toEqual([
      'datapath(listener-2): fell back to userspace: BPF object not found',
      'datapath(listener-3): fell back to userspace: BPF object not found',
    ]);
  });

  test('remarks nothing where all is served as it would be', () => {
    const { apply, datapath } = rig([tc!, user!, auto!]);
    apply();
    expect(datapath.remarks()).toEqual([]);
  });

  test('decides nothing before the endpoints are known', () => {
    const { apply, isSafetyNet, kernel, log } = rig([auto!]);
    apply([]);
    (kernel as FakeDatapath).problems = [ATTACHMENT];
    apply();
    expect([isSafetyNet(auto!), log.lines.length]).toEqual([false, 1]);
  });

  test('does not fall back later: the safety net serves until the program is there again', () => {
    const { apply, isSafetyNet, kernel, log } = rig([auto!]);
    apply();
    (kernel as FakeDatapath).problems = [ATTACHMENT];
    expect(apply()).toEqual([ATTACHMENT]);
    expect([isSafetyNet(auto!), log.lines]).toEqual([true, []]);
  });

  test('keeps the problem of an attachment that a listener of the kernel misses too', () => {
    const { apply, kernel } = rig([tc!, auto!]);
    (kernel as FakeDatapath).problems = [ATTACHMENT];
    expect(apply()).toEqual([ATTACHMENT]);
  });

  test('without a kernel path, fails where all insist on it, and else names those that do', () => {
    const obstacle = new Error('BPF object not found');
    expect(() => rig([tc!], obstacle)).toThrow(obstacle);
    const { apply, userspace, log } = rig([tc!, auto!], obstacle);
    expect(apply()).toEqual([
      { subject: 'listener(listener-0)', message: 'listener "listener-0": BPF object not found' },
    ]);
    expect([...userspace.interfaces.keys()]).toEqual(['listener-2']);
    expect(log.lines).toEqual(['WARN listener "listener-2" falls back to userspace: BPF object not found']);
  });

  test('closes the kernel path before what catches its datagrams', () => {
    const { datapath, kernel, userspace } = rig([tc!]);
    datapath.close();
    expect([(kernel as FakeDatapath).closed, userspace.closed]).toEqual([true, true]);
  });
});
