/**
 * The ground moves under the agent: links, addresses, routes, qdiscs and filters come, change and go while numbered datagrams are
 * under way, in both families. What can be repaired is within a second; what is lost has a name; nothing is doubled.
 */
import { afterEach, describe, expect, test } from 'vitest';
import { type Agent, startAgent } from '../../lab/agent.ts';
import { loses } from '../../lab/books.ts';
import { type DualStack, dualStack } from '../../lab/dual-stack.ts';
import { flowsOf } from '../../lab/interruptions.ts';
import { lacking, titled } from '../../lab/kernel.ts';
import { labObstacle } from '../../lab/lab.ts';
import { patient, pause, until } from '../../lab/patience.ts';
import { Trial } from '../../lab/trial.ts';
import { config, listener } from './configs.ts';

const RATE = 3000;
const ATTACHED = /attached TC eBPF program to ingress interface="eth0"/;
/** In which what is mended is to be repaired. */
const REPAIR_MS = patient(1000);
const POD = 1;

const obstacle = labObstacle();
const noRename = lacking('live_rename');
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

interface Ground {
  readonly lab: DualStack;
  readonly agent: Agent;
  readonly trial: Trial;
  /** Lines of `ip` on the node, and words of `tc`. */
  ip(...lines: readonly string[]): void;
  tc(...words: readonly string[]): string;
}

async function ground(size?: number): Promise<Ground> {
  const lab = dualStack({ vlan: false });
  cleanUps.push(() => lab.close());
  const downstream = [...lab.pods, ...lab.pods6];
  const agent = startAgent(lab.node, config(listener({ bind: '[::]:9000', interface: 'eth0', downstream })));
  cleanUps.push(() => agent.stop());
  await agent.waitFor(ATTACHED);
  const options = { ...lab, flows: flowsOf(lab), rate: RATE, mayFail: true, ...(size !== undefined && { size }) };
  const trial = await Trial.begin(options);
  cleanUps.push(() => trial[Symbol.dispose]());
  const { namespace } = lab.node;
  const ip = (...lines: readonly string[]) => namespace.ip(lines);
  const made = { lab, agent, trial, ip, tc: (...words: readonly string[]) => namespace.run('tc', words) };
  await flowing(made);
  return made;
}

/** Returns when every pod has got more in both families; throws where that takes longer than a repair may. */
async function flowing({ trial }: Ground, within = REPAIR_MS): Promise<void> {
  const before = await trial.come();
  const begun = performance.now();
  const more = async () => (await trial.come()).every((count, at) => count > before[at]!);
  await until('datagrams for every pod, in both families', more);
  expect(performance.now() - begun, 'milliseconds until it was repaired').toBeLessThan(within);
}

interface Closing {
  readonly missing: number;
  /** Of these, dropped by a name. */
  readonly named: number;
  /** That the agent says have left, and that came nowhere. */
  readonly astray: number;
}

/** Ends the flows. Nothing is doubled or misled. */
async function closed({ trial, agent }: Ground): Promise<Closing> {
  const outcomes = await trial.end();
  for (const outcome of outcomes) expect(outcome).toMatchObject({ doubled: 0, strange: 0, full: 0 });
  const sum = async (name: string) =>
    [...(await agent.metrics())].reduce(
      (all, [key, value]) => all + (key.startsWith(`udp_fanout_${name}{`) ? value : 0),
      0,
    );
  const fates = async () => (await sum('packets_forwarded_total')) + (await sum('packets_dropped_total'));
  // What waits for a neighbour has its fate within seconds.
  await until(
    'each that was received has a fate',
    async () => (await sum('packets_received_total')) === (await fates()),
  );
  const missing = outcomes.reduce((all, outcome) => all + outcome.missing, 0);
  const came = outcomes.reduce((all, outcome) => all + outcome.sent - outcome.missing, 0);
  const egress = await sum('egress_drops_total');
  const astray = (await sum('packets_forwarded_total')) - egress - came;
  return { missing, named: (await sum('packets_dropped_total')) + egress, astray };
}

interface Step {
  readonly what: string;
  move(one: Ground): Promise<unknown> | unknown;
  /** Until datagrams come again, where that is not the agent's doing alone; a repair's second if absent. */
  readonly within?: number;
}

/** Each twice, since it is the second time that shows what the first one has left. */
async function moved(one: Ground, steps: readonly Step[]): Promise<void> {
  for (const { what, move, within } of [...steps, ...steps]) {
    try {
      await move(one);
      await flowing(one, within);
    } catch (cause) {
      throw new Error(`${what}: ${(cause as Error).message}`, { cause });
    }
  }
  expect(one.tc('filter', 'show', 'dev', 'eth0', 'ingress').match(/name udp_fanout /g)).toHaveLength(1);
  expect((await one.agent.get('/readyz')).status).toBe(200);
}

/** Attached again within a second, by its log. */
async function attachedAgain({ agent }: Ground, move: () => unknown): Promise<void> {
  const from = agent.lines.length;
  const begun = performance.now();
  move();
  await agent.waitFor(ATTACHED, { from });
  expect(performance.now() - begun, 'milliseconds until it was attached').toBeLessThan(REPAIR_MS);
}

/** Takes our filter away; its preference. */
function removed({ tc }: Ground): string {
  const [, preference] = /pref (\d+) bpf .*name udp_fanout /.exec(tc('filter', 'show', 'dev', 'eth0', 'ingress')) ?? [];
  tc('filter', 'del', 'dev', 'eth0', 'ingress', 'pref', preference!);
  return preference!;
}

/** Changes and changes back, with time between for the agent to do something wrong. */
function there(what: string, away: readonly string[], back: readonly string[]): Step {
  const move = async (one: Ground) => {
    one.ip(...away);
    await pause(200);
    one.ip(...back);
  };
  return { what, move };
}

const ACCEPT = ['bpf', 'bytecode', '1,6 0 0 4294967295,', 'classid', '1:1'];
const MTUS = [1300, 1500, 9000, 1500];

/** The filter, the qdisc, and what others have beside ours. */
const BESIDE: readonly Step[] = [
  { what: 'our filter is removed', move: (one) => attachedAgain(one, () => removed(one)) },
  {
    what: 'clsact is removed',
    move: (one) => attachedAgain(one, () => one.tc('qdisc', 'del', 'dev', 'eth0', 'clsact')),
  },
  {
    what: 'our filter is replaced by somebody’s',
    move: async (one) => {
      let preference = '';
      await attachedAgain(one, () => {
        preference = removed(one);
        one.tc('filter', 'add', 'dev', 'eth0', 'ingress', 'pref', preference, ...ACCEPT);
      });
      await flowing(one);
      // Ours has not taken theirs away, and nor does it when it finds another place.
      one.tc('filter', 'del', 'dev', 'eth0', 'ingress', 'pref', preference);
    },
  },
  there(
    'further addresses',
    ['addr add 10.0.0.77/24 dev eth0', 'addr add fd00::77/64 dev eth0 nodad'],
    ['addr del 10.0.0.77/24 dev eth0', 'addr del fd00::77/64 dev eth0'],
  ),
  there(
    'routes of others',
    ['route add 10.77.0.0/16 dev veth10', 'route add fd77::/64 dev veth10'],
    ['route del 10.77.0.0/16 dev veth10', 'route del fd77::/64 dev veth10'],
  ),
];

const SIZES: readonly Step[] = ['eth0', 'veth11'].map((nic) => ({
  what: `the MTU of ${nic}`,
  move: async (one: Ground) => {
    for (const mtu of MTUS) {
      one.ip(`link set ${nic} mtu ${mtu}`);
      await flowing(one);
    }
  },
}));

/** The safety net's socket stands on the address, whatever the interface is called. */
const NAMES: readonly Step[] = [
  there('the way out is renamed', ['link set veth11 name other0'], ['link set other0 name veth11']),
  {
    what: 'the way in is renamed',
    move: async (one) => {
      const from = one.agent.lines.length;
      one.ip('link set eth0 name other0');
      await one.agent.waitFor(/ERROR interface not found: eth0/, { from });
      await flowing(one);
      await attachedAgain(one, () => one.ip('link set other0 name eth0'));
    },
  },
];

const routesOf = ({ lab: { pods, pods6 } }: Ground) => [
  `route replace ${pods[POD]!.ip}/32 dev veth11`,
  `route replace ${pods6[POD]!.ip}/128 dev veth11`,
];

const WAYS_OUT: readonly Step[] = [
  {
    what: 'routes to a pod go and come',
    move: async (one) => {
      one.ip(...routesOf(one).map((route) => route.replace('replace', 'del')));
      await pause(200);
      one.ip(...routesOf(one));
    },
  },
  {
    what: 'a way out goes down and up',
    move: async (one) => {
      // The routes go with it.
      one.ip('link set veth11 down');
      await pause(200);
      one.ip('link set veth11 up', ...routesOf(one));
    },
  },
  {
    what: 'a way out is deleted and made again',
    move: async (one) => {
      one.ip('link del veth11');
      await pause(200);
      one.lab.relink(one.lab.pods[POD]!.name);
    },
  },
];

const WAYS_IN: readonly Step[] = [
  there(
    'the node’s addresses',
    ['addr del 10.0.0.1/24 dev eth0', 'addr del fd00::1/64 dev eth0'],
    ['addr add 10.0.0.1/24 dev eth0', 'addr add fd00::1/64 dev eth0 nodad'],
  ),
  there(
    'the way in goes down and up',
    ['link set eth0 down'],
    ['link set eth0 up', 'addr add fd00::1/64 dev eth0 nodad'],
  ),
  {
    what: 'the way in is deleted and made again',
    move: async (one) => {
      one.ip('link del eth0');
      await pause(200);
      await attachedAgain(one, () => one.lab.relink('client'));
    },
    // The client asks a second time after a second, if nobody was there to answer the first time.
    within: REPAIR_MS + patient(1000),
  },
];

describe.skipIf(obstacle)(titled('the ground moves:', obstacle), () => {
  test.each([
    ['filters, addresses and routes beside ours', BESIDE, undefined],
    ['MTUs', SIZES, 1200],
  ] as const)('%s, and nothing is lost', async (_, steps, size) => {
    const one = await ground(size);
    await moved(one, steps);
    expect(await closed(one)).toEqual({ missing: 0, named: 0, astray: 0 });
  });

  test.skipIf(noRename)(titled('names of interfaces, and nothing is lost', noRename), async () => {
    const one = await ground();
    await moved(one, NAMES);
    expect(await closed(one)).toEqual({ missing: 0, named: 0, astray: 0 });
  });

  test('a pod’s routes and link, and what is lost has a name', async () => {
    const one = await ground();
    await moved(one, WAYS_OUT);
    const { missing, named, astray } = await closed(one);
    expect([missing > 0, astray, missing - named]).toEqual([true, 0, 0]);
  });

  test('the link that datagrams come by, and of those that come nothing is lost', async () => {
    const seconds = (2 * WAYS_IN.length * (patient(200) + REPAIR_MS) + 2 * patient(1000)) / 1000;
    loses('what is sent into a link, or to an address, that is not there', { atMost: 2 * RATE * seconds });
    const one = await ground();
    await moved(one, WAYS_IN);
    expect(await closed(one)).toMatchObject({ named: 0, astray: 0 });
  });
});
