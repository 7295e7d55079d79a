/** What happens to an agent in its life, of which no datagram of its listeners may notice anything. */
import { RemoteApi } from './api/remote.ts';
import { aSlice } from './api/slices.ts';
import { agentOfOtherAbi, otherProgram } from './builds.ts';
import type { DualStack } from './dual-stack.ts';
import { type NextOptions, Succession } from './succession.ts';
import type { Flow, Trial } from './trial.ts';

/** An agent under datagrams. */
export interface Ground {
  readonly lab: DualStack;
  readonly succession: Succession;
  readonly trial: Trial;
}

type Round = (ground: Ground, round: number) => Promise<void>;

export interface Interruption {
  readonly what: string;
  /** As many as are worth showing. */
  readonly times: number;
  /** Nobody serves while there is no agent: the senders hear so. */
  readonly refuses?: boolean;
  /** Counters start anew with each agent. */
  readonly anew?: boolean;
  /** Starts the first agent, and tells how a round of it goes. */
  prepare(lab: DualStack): Promise<{ readonly succession: Succession; readonly round: Round }>;
}

const LISTENER = { name: 'test', bind: '[::]:9000' };
const KERNEL = { interface: 'eth0', mode: 'tc_ebpf' };
// Two workers, and room for what comes while the machine does something else.
const USERSPACE = { mode: 'userspace', settings: { workers: 2, recv_buf_size: 64 << 20 } };
const METRICS = { metrics: { enabled: true, bind: '127.0.0.1:9090' } };
const SERVICE = { namespace: 'lab', service: 'receivers' };
const UPDATED = /updated (tc_ebpf|userspace) downstream set listener_id=0 /;
const SERVES_BY_THREADS = /updated userspace downstream set/;

/** The flows that the interruptions' listener takes. */
export function flowsOf({ pods, pods6 }: DualStack): readonly [Flow, Flow] {
  return [
    { family: 4, from: '10.0.0.9:40000', to: '10.0.0.1:9000', pods },
    { family: 6, from: '[fd00::9]:40000', to: '[fd00::1]:9000', pods: pods6 },
  ];
}

function addresses({ pods, pods6 }: DualStack, without = -1): object[] {
  const stay = [pods, pods6].map((all) => all.filter((_, index) => index !== without));
  return stay.flat().map(({ address }) => ({ address }));
}

function served(lab: DualStack, keys: object, without?: number, others: readonly object[] = []): object {
  return { listeners: [{ ...LISTENER, ...keys, downstream: addresses(lab, without) }, ...others], ...METRICS };
}

/** One agent ends and the next begins, by options of its own. */
function restarts(
  what: string,
  signal: 'SIGTERM' | 'SIGKILL',
  optionsIn: (folder: string) => (round: number) => NextOptions = () => () => ({}),
  keys: object = KERNEL,
  ready?: RegExp,
): Interruption {
  const prepare = async (lab: DualStack) => {
    const options = optionsIn(lab.node.namespace.directory);
    const succession = await Succession.begin(lab.node, served(lab, keys), ready ? { ready } : {});
    const round: Round = async (ground, at) => void (await ground.succession.next(signal, options(at)));
    return { succession, round };
  };
  return { what, times: 10, prepare };
}

function otherBuilds(folder: string): (round: number) => NextOptions {
  const object = otherProgram(folder);
  return (round) => (round % 2 === 0 ? { args: ['--ebpf-program', object] } : {});
}

function otherAbis(folder: string): (round: number) => NextOptions {
  const program = agentOfOtherAbi(folder);
  return (round) => ({ anew: true, ...(round % 2 === 0 && { program }) });
}

/** The next agent takes the place of one that runs. */
function takeovers(what: string, keys: object, { anew, ready }: { readonly anew: boolean; readonly ready?: RegExp }) {
  const prepare = async (lab: DualStack) => {
    const succession = await Succession.begin(lab.node, served(lab, keys), ready ? { ready } : {});
    return { succession, round: () => succession.takeOver({ anew }) };
  };
  return { what, times: 10, anew, prepare } satisfies Interruption;
}

/** Another listener comes, changes and goes, and each time another downstream is none of ours. */
function reloads(what: string, keys: object, ready?: RegExp): Interruption {
  const other = (port: number, mode: object) => ({
    name: 'other',
    bind: `0.0.0.0:${port}`,
    ...mode,
    downstream: [{ address: '10.0.1.10:9000' }],
  });
  const others = [[], [other(9001, KERNEL)], [other(9002, KERNEL)], [other(9002, USERSPACE)]];
  return {
    what,
    times: 100,
    prepare: async (lab) => {
      const succession = await Succession.begin(lab.node, served(lab, keys), ready ? { ready } : {});
      const round: Round = async ({ succession, trial }, at) => {
        const without = at % lab.pods.length;
        trial.everyone();
        await succession.edit(served(lab, keys, without, others[at % others.length]), UPDATED);
        trial.gone(without);
        if (at % 10 === 0) await succession.count();
      };
      return { succession, round };
    },
  };
}

/** The listener goes from one datapath to the other, whose counters are others. */
const changesOver: Interruption = {
  what: 'changed over to worker threads and back',
  times: 10,
  anew: true,
  prepare: async (lab) => {
    // The safety net's socket has no room for what comes while threads start: nothing of it may be needed.
    const kernel = { ...KERNEL, settings: { recv_buf_size: 4096 } };
    const succession = await Succession.begin(lab.node, served(lab, kernel));
    const round: Round = async ({ succession }, at) => {
      const to = at % 2 === 0 ? USERSPACE : kernel;
      await succession.edit(served(lab, to), new RegExp(`updated ${to.mode} downstream set`));
    };
    return { succession, round };
  },
};

/** The endpoints of a Service change: a pod goes, and comes back. */
const swaps: Interruption = {
  what: 'tables swapped',
  times: 1000,
  prepare: async (lab) => {
    const api = await RemoteApi.start(lab.node);
    const { pods, pods6 } = lab;
    const apply = (without = -1) => {
      const ips = [pods, pods6].map((all) => all.filter((_, at) => at !== without).map((pod) => ipOf(pod.address)));
      return api.apply(
        SERVICE.namespace,
        aSlice('receivers-4', ips[0]!, { service: SERVICE.service }),
        aSlice('receivers-6', ips[1]!, { service: SERVICE.service, addressType: 'IPv6' }),
      );
    };
    await apply();
    const config = { listeners: [{ ...LISTENER, ...KERNEL, kubernetes: { ...SERVICE, port: 9000 } }], ...METRICS };
    const succession = await Succession.begin(lab.node, config, { env: { KUBECONFIG: api.kubeconfig } });
    const round: Round = async ({ succession: { agent }, trial }, at) => {
      const without = at % 2 === 0 ? (at / 2) % pods.length : -1;
      const from = agent.lines.length;
      trial.everyone();
      await apply(without);
      // Slices come one by one: it is done when both families are without the pod, or have it again.
      const endpoints = 2 * (pods.length - (without < 0 ? 0 : 1));
      await agent.waitFor(new RegExp(`${UPDATED.source}endpoints=${endpoints}$`), { from });
      if (without >= 0) trial.gone(without);
      if (at % 50 === 0) await succession.count();
    };
    return { succession, round };
  },
};

function ipOf(address: string): string {
  return address.replace(/:\d+$/, '').replaceAll(/[[\]]/g, '');
}

/** The kernel path goes on by itself. */
export const ON_THE_KERNEL_PATH: readonly Interruption[] = [
  restarts('killed', 'SIGKILL'),
  restarts('stopped and started', 'SIGTERM'),
  restarts('upgraded to another build', 'SIGTERM', otherBuilds),
  { ...restarts('upgraded to another ABI', 'SIGTERM', otherAbis), anew: true },
  takeovers('taken over', KERNEL, { anew: false }),
  reloads('reloaded', KERNEL),
  changesOver,
  swaps,
];

/** Worker threads end with their process: what came before that is forwarded, and what comes later is refused. */
export const IN_USERSPACE: readonly Interruption[] = [
  {
    ...restarts(
      'stopped and started, userspace',
      'SIGTERM',
      () => () => ({ anew: true }),
      USERSPACE,
      SERVES_BY_THREADS,
    ),
    refuses: true,
    anew: true,
  },
  takeovers('taken over, userspace', USERSPACE, { anew: true, ready: SERVES_BY_THREADS }),
  reloads('reloaded, userspace', USERSPACE, SERVES_BY_THREADS),
];
