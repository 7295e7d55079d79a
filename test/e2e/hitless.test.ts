/**
 * Nothing is lost, doubled or misled while the agent comes and goes, in both families: `npm run bench -- hitless`, scaled down.
 * There are ten of each restart, a hundred reloads and a thousand swaps there, under as many datagrams as the machine carries.
 */
import { globSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { loses } from '../../lab/books.ts';
import { type DualStack, dualStack } from '../../lab/dual-stack.ts';
import { flowsOf, IN_USERSPACE, type Interruption, ON_THE_KERNEL_PATH } from '../../lab/interruptions.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { until } from '../../lab/patience.ts';
import type { Succession } from '../../lab/succession.ts';
import { type Outcome, Trial } from '../../lab/trial.ts';
import { ledger } from './conservation.ts';

const RATE = 5000;
/** So many of what takes a hundred or a thousand there. */
const SOME = 12;
const RESTARTS = 2;
const KILLS = 5;
const MOST_GROWTH = 1.2;

const obstacle = labObstacle() ?? lacking('clang');
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function built(): DualStack {
  const lab = dualStack({ vlan: false });
  cleanUps.push(() => lab.close());
  return lab;
}

async function interrupted(of: Interruption): Promise<{
  readonly lab: DualStack;
  readonly succession: Succession;
  readonly outcomes: readonly Outcome[];
}> {
  const lab = built();
  const { succession, round } = await of.prepare(lab);
  cleanUps.push(() => succession.agent.stop());
  const trial = await Trial.begin({ ...lab, flows: flowsOf(lab), rate: RATE });
  cleanUps.push(() => trial[Symbol.dispose]());
  for (let at = 0; at < (of.times > 10 ? SOME : RESTARTS); at++) await round({ lab, succession, trial }, at);
  await succession.count();
  return { lab, succession, outcomes: await trial.end() };
}

/** The filters of ours on a side of an interface. */
function filters({ node }: DualStack, nic: string, side: string): readonly string[] {
  return node.namespace.run('tc', ['filter', 'show', 'dev', nic, side]).match(/name udp_fanout\S*/g) ?? [];
}

/** Takeovers have a file of their own. */
const isOther = ({ what }: Interruption) => !what.startsWith('taken over');
const NOTHING = { full: 0, doubled: 0, late: 0, strange: 0 };

describe.skipIf(obstacle)(titled('no datagram notices that the agent is', obstacle), () => {
  test.each(ON_THE_KERNEL_PATH.filter(isOther))('$what', async (interruption) => {
    const { lab, succession, outcomes } = await interrupted(interruption);
    for (const outcome of outcomes) expect(outcome).toMatchObject({ ...NOTHING, missing: 0, refused: 0, icmp: 0 });
    expect(outcomes.map(({ sent }) => sent > 500)).toEqual([true, true]);
    expect(succession.backwards).toEqual([]);
    const sent = outcomes.reduce((sum, outcome) => sum + outcome.sent, 0);
    const { forwarded } = await ledger(succession.agent, 'test', interruption.anew ? { atLeast: 1 } : sent);
    if (!interruption.anew) expect(forwarded).toBe(sent);
    expect([...filters(lab, 'eth0', 'ingress'), ...filters(lab, 'lo', 'egress')]).toEqual([
      'name udp_fanout',
      'name udp_fanout_out',
    ]);
    expect((await succession.agent.get('/readyz')).status).toBe(200);
  });

  test.each(IN_USERSPACE.filter(isOther))('$what', async (interruption) => {
    const { succession, outcomes } = await interrupted(interruption);
    const atMost = outcomes.reduce((sum, { refused }) => sum + refused, 0);
    if (interruption.refuses) loses('nobody serves between two agents', { atMost });
    for (const { missing, refused, icmp, ...outcome } of outcomes) {
      expect(outcome).toMatchObject(NOTHING);
      // What nobody serves is refused, and so is nothing else.
      expect(missing).toBe(refused);
      if (!interruption.refuses) expect([refused, icmp]).toEqual([0, 0]);
    }
    expect(succession.backwards).toEqual([]);
  });
});

describe.skipIf(obstacle)(titled('an agent', obstacle), () => {
  test('that is killed and started again and again leaves nothing more than one', async () => {
    const lab = built();
    const succession = await begun(lab);
    await succession.next('SIGKILL');
    const { rss, ...first } = await succession.footprint();
    // The bench has 30 rounds.
    for (let round = 1; round < KILLS; round++) await succession.next('SIGKILL');
    const { rss: lastRss, ...last } = await succession.footprint();
    expect(last).toEqual(first);
    expect(lastRss).toBeLessThan(rss * MOST_GROWTH);
    await until('what dead agents had is freed', () => isNothing(succession.stale()));
  });

  test('that was killed leaves what detach removes, and others’ filters and qdiscs stay', async () => {
    const lab = built();
    const { namespace } = lab.node;
    const accept = ['bpf', 'bytecode', '1,6 0 0 4294967295,', 'classid', '1:1'];
    namespace.run('tc', ['qdisc', 'add', 'dev', 'eth0', 'clsact']);
    namespace.run('tc', ['filter', 'add', 'dev', 'eth0', 'ingress', 'pref', '50000', ...accept]);
    const succession = await begun(lab);
    const trial = await Trial.begin({ ...lab, flows: flowsOf(lab), rate: RATE });
    for (const { missing } of await trial.end()) expect(missing).toBe(0);
    await succession.end('SIGKILL');
    const detach = () => namespace.run(process.execPath, ['dist/udp-fanout.js', 'detach']);
    expect(detach()).toBe('detached from interface "lo"\ndetached from interface "eth0"\n');
    expect(detach()).toBe('nothing of udp-fanout is attached on this host\n');
    expect([...filters(lab, 'eth0', 'ingress'), ...filters(lab, 'lo', 'egress')]).toEqual([]);
    expect(namespace.run('bpftool', ['net', 'show'])).not.toContain('udp_fanout');
    await until('its programs and maps are freed', () => isNothing(succession.stale()));
    expect(globSync('/sys/fs/bpf/**/*fanout*')).toEqual([]);
    expect(namespace.run('tc', ['filter', 'show', 'dev', 'eth0', 'ingress'])).toContain('pref 50000');
    expect(namespace.run('tc', ['qdisc', 'show', 'dev', 'eth0'])).toContain('clsact');
  });
});

async function begun(lab: DualStack): Promise<Succession> {
  const { succession } = await ON_THE_KERNEL_PATH[0]!.prepare(lab);
  cleanUps.push(() => succession.agent.kill('SIGKILL'));
  return succession;
}

function isNothing({ programs, maps }: ReturnType<Succession['stale']>): boolean {
  return programs.length + maps.length === 0;
}
