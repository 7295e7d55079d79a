/** Which datapath serves a listener: by its mode, and by what this machine can do. */
import { describe, expect, test } from 'vitest';
import { openDatapath } from '../../agent/datapath/composite.ts';
import type { Problem } from '../../agent/datapath/datapath.ts';
import type { Listener } from '../../agent/model.ts';
import { placeListener } from '../../agent/placement.ts';
import { buildTable } from '../../agent/table.ts';
import { FakeDatapath } from '../fake/datapath.ts';
import { aLink, aListener, aLog, anEndpoint } from '../fake/words.ts';

const ATTACHMENT: Problem = { subject: 'attachment(eth0)', message: 'failed to attach TC program: EPERM' };

function rig(listeners: readonly Listener[], kernel: FakeDatapath | Error = new FakeDatapath()) {
  const log = aLog();
  const opened = { kernel: 0, removals: 0 };
  const userspace = new FakeDatapath('userspace');
  let isSafetyNet: (listener: Listener) => boolean = () => false;
  const datapath = openDatapath({
    log,
    openKernel: () => {
      opened.kernel++;
      if (kernel instanceof Error) throw kernel;
      return kernel;
    },
    removeLeft: () => {
      opened.removals++;
    },
    openUserspace: (asked) => {
      isSafetyNet = asked;
      return userspace;
    },
  });
  const tablesOfOne = [buildTable(4, [anEndpoint('10.0.1.10')])];
  /** On a machine with these links. */
  const applyTo = (wanted: readonly Listener[], links = [aLink()], tables = tablesOfOne) => {
    const listeners = wanted.map((listener) => {
      const { interfaces, problems } = placeListener(listener, links);
      return { listener, interfaces, absent: problems, tables };
    });
    return datapath.apply({ addresses: [], listeners });
  };
  const apply = (tables = tablesOfOne) => applyTo(listeners, undefined, tables);
  return { log, opened, applyTo, kernel, userspace, datapath, apply, isSafetyNet: (one: Listener) => isSafetyNet(one) };
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
    const { apply, datapath, opened } = rig([user!], new Error('must not be asked for'));
    expect(apply()).toEqual([]);
    expect([datapath.mode, opened.kernel]).toEqual(['userspace', 0]);
  });

  test('opens the kernel path when the first listener that wants it comes, once', () => {
    const { applyTo, datapath, kernel, opened } = rig([]);
    applyTo([]);
    applyTo([user!]);
    expect(opened.kernel).toBe(0);
    applyTo([user!, tc!]);
    applyTo([tc!, auto!]);
    applyTo([]);
    expect([opened.kernel, datapath.mode]).toEqual([1, 'tc_ebpf']);
    // It is told of those that leave, too.
    expect((kernel as FakeDatapath).interfaces.size).toBe(0);
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

  test('without a kernel path, says so by itself where all insist on it, and else names those that do', () => {
    const obstacle = new Error('BPF object not found');
    const other = aListener({ id: 3 });
    const alone = rig([tc!, other], obstacle);
    expect(alone.apply()).toEqual([
      { subject: 'listener(listener-0)', message: 'BPF object not found' },
      { subject: 'listener(listener-3)', message: 'listener "listener-3": for the same reason' },
    ]);
    expect([...alone.userspace.interfaces.keys()]).toEqual([]);
    const { apply, userspace, log } = rig([tc!, auto!], obstacle);
    expect(apply()).toEqual([
      { subject: 'listener(listener-0)', message: 'listener "listener-0": BPF object not found' },
    ]);
    expect([...userspace.interfaces.keys()]).toEqual(['listener-2']);
    expect(log.lines).toEqual(['WARN listener "listener-2" falls back to userspace: BPF object not found']);
  });

  test('tries a kernel path that was not to be had again when nobody waits for it any more', () => {
    const { applyTo, opened } = rig([], new Error('BPF object not found'));
    applyTo([tc!]);
    applyTo([tc!]);
    expect(opened.kernel).toBe(1);
    applyTo([user!]);
    applyTo([tc!]);
    expect(opened.kernel).toBe(2);
  });

  test('falls back where none of the interfaces exists, though nothing was tried', () => {
    const { applyTo, datapath, isSafetyNet, log } = rig([]);
    const missing = aListener({ id: 2, mode: 'auto', interfaces: ['eth8', 'eth9'] });
    expect(applyTo([missing], [])).toEqual([]);
    expect(log.lines).toEqual([
      'WARN listener "listener-2" falls back to userspace: interface not found: eth8 (there are: )',
    ]);
    expect([isSafetyNet(missing), datapath.remarks().length]).toEqual([false, 1]);
    // One of them is enough.
    const other = rig([]);
    other.applyTo([missing], [aLink({ name: 'eth8' })]);
    expect([other.isSafetyNet(missing), other.log.lines]).toEqual([true, []]);
  });

  test('falls back where the kernel path has no place for a listener', () => {
    const { apply, isSafetyNet, kernel } = rig([tc!, auto!]);
    const full = (name: string) => ({ subject: `listener(${name})`, message: 'there is room for 1 listeners' });
    (kernel as FakeDatapath).problems = [full('listener-0'), full('listener-2')];
    expect(apply()).toEqual([full('listener-0')]);
    expect([isSafetyNet(tc!), isSafetyNet(auto!)]).toEqual([true, false]);
  });

  test('forgets what it decided of a listener that leaves', () => {
    const { applyTo, datapath, isSafetyNet, kernel } = rig([]);
    const fake = kernel as FakeDatapath;
    fake.problems = [ATTACHMENT];
    applyTo([auto!]);
    expect([isSafetyNet(auto!), datapath.remarks().length]).toEqual([false, 1]);
    applyTo([]);
    fake.problems = [];
    expect(datapath.remarks()).toEqual([]);
    applyTo([auto!]);
    expect(isSafetyNet(auto!)).toBe(true);
    applyTo([]);
    fake.problems = [ATTACHMENT];
    applyTo([auto!]);
    expect(isSafetyNet(auto!)).toBe(false);
  });

  test('knows listeners by name, wherever they stand in the config', () => {
    const { applyTo, isSafetyNet, kernel } = rig([]);
    (kernel as FakeDatapath).problems = [ATTACHMENT];
    applyTo([auto!]);
    (kernel as FakeDatapath).problems = [];
    const newcomer = aListener({ id: auto!.id, name: 'newcomer', mode: 'auto' });
    const moved = { ...auto!, id: 5 };
    applyTo([newcomer, moved]);
    expect([isSafetyNet(newcomer), isSafetyNet(moved)]).toEqual([true, false]);
  });

  test('has the kernel path serve on until worker threads do, and the other way round', () => {
    const { applyTo, kernel, userspace } = rig([]);
    const fake = kernel as FakeDatapath;
    const moved = { ...tc!, mode: 'userspace', interfaces: [] } as const;
    const seen: string[][] = [];
    const apply = userspace.apply.bind(userspace);
    userspace.apply = (blueprint) => {
      seen.push([...fake.interfaces.keys()]);
      return apply(blueprint);
    };
    const of = () => [seen.splice(0), [...fake.interfaces.keys()]];
    applyTo([tc!, auto!]);
    expect(of()).toEqual([[['listener-0', 'listener-2']], ['listener-0', 'listener-2']]);
    const links = fake.interfaces.get('listener-0');
    // Nothing is known of its downstreams yet; then its port is not to be had; then it is served.
    applyTo([moved, auto!], undefined, []);
    expect(of()).toEqual([[['listener-0', 'listener-2']], ['listener-0', 'listener-2']]);
    userspace.problems = [{ subject: 'listener(listener-0)', message: 'EADDRINUSE' }];
    expect(applyTo([moved, auto!])).toEqual(userspace.problems);
    expect([of(), fake.interfaces.get('listener-0')]).toEqual([
      [[['listener-0', 'listener-2']], ['listener-0', 'listener-2']],
      links,
    ]);
    userspace.problems = [];
    expect(applyTo([moved, auto!])).toEqual([]);
    expect(of()).toEqual([[['listener-0', 'listener-2']], ['listener-2']]);
    applyTo([tc!, auto!]);
    expect(of()).toEqual([[['listener-0', 'listener-2']], ['listener-0', 'listener-2']]);
    applyTo([auto!]);
    expect(of()).toEqual([[['listener-2']], ['listener-2']]);
  });

  test('has a dead agent’s kernel path serve on, too, where the config has gone over to userspace meanwhile', () => {
    const { applyTo, kernel, userspace } = rig([]);
    const fake = kernel as FakeDatapath;
    fake.linksBefore.set('listener-1', [{ index: 3, name: 'eth1' }]);
    const apply = userspace.apply.bind(userspace);
    let before: [string, readonly string[]][] = [];
    userspace.apply = (blueprint) => {
      before = [...fake.interfaces];
      return apply(blueprint);
    };
    const both = [
      ['listener-1', ['eth1#3']],
      ['listener-2', ['eth0#2']],
    ];
    // Its downstreams are not known yet, then its port is not to be had, then it is served.
    applyTo([user!, auto!], undefined, []);
    expect([before, [...fake.interfaces]]).toEqual([both, both]);
    userspace.problems = [{ subject: 'listener(listener-1)', message: 'EADDRINUSE' }];
    applyTo([user!, auto!]);
    expect([before, [...fake.interfaces]]).toEqual([both, both]);
    userspace.problems = [];
    applyTo([user!, auto!]);
    expect([before, [...fake.interfaces]]).toEqual([both, both.slice(1)]);
  });

  test('ends both, the kernel path too if there is one', () => {
    const ends = (end: 'remove' | 'release', listeners: readonly Listener[]) => {
      const { apply, datapath, kernel, userspace } = rig(listeners);
      apply();
      datapath[end]();
      return [(kernel as FakeDatapath).end, userspace.end];
    };
    expect(ends('remove', [tc!])).toEqual(['removed', 'removed']);
    expect(ends('release', [tc!])).toEqual(['released', 'released']);
    expect(ends('release', [user!])).toEqual([undefined, 'released']);
  });
});
