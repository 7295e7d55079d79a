/** Who else sits on the ingress of our interfaces, and who of them sees a datagram before we do. */
import { isOurs } from '../datapath/tc/clsact.ts';
import type { Filter } from '../netlink/filter.ts';
import { type Finding, ok, warn } from './finding.ts';

export interface Hook {
  readonly name: string;
  readonly filters: readonly Filter[];
  /** Programs on tcx ingress, in their order; text: why they cannot be seen. */
  readonly tcx: readonly Program[] | string;
  /** Id of the interface's XDP program. */
  readonly xdp?: number;
}

export interface Program {
  readonly id: number;
  /** Absent where the capability SYS_ADMIN is missing. */
  readonly name?: string;
}

/** The kernel gives a filter without a pref one above half of all prefs, 49152 or just before others up there. */
const BEFORE_OURS = 32768;
const UNSEEN = 'what it returns cannot be seen from here';

export function hookFindings(hooks: readonly Hook[]): Finding[] {
  return hooks.flatMap((hook) => {
    const earlier = [...xdp(hook), ...tcx(hook), ...filters(hook)];
    const ours = hook.filters.find(isOurs);
    const what = `hook ${hook.name}`;
    const state = ours ? `udp_fanout is attached, pref ${ours.priority}` : 'udp_fanout is not attached now';
    if (earlier.length > 0) return [ok(what, state), ...earlier];
    const unseen = typeof hook.tcx === 'string' ? `; tcx programs cannot be seen (${hook.tcx})` : '';
    return [ok(what, `${state}, nobody else is on the ingress${unseen}`)];
  });
}

function filters({ name, filters }: Hook): Finding[] {
  const limit = filters.find(isOurs)?.priority ?? BEFORE_OURS;
  const foreign = filters.filter((filter) => !isOurs(filter) && filter.chain === 0);
  return foreign.map((filter) => {
    const { kind, priority, bpfName, bpfId } = filter;
    const program = bpfName ?? (bpfId === undefined ? '' : `program ${bpfId}`);
    const who = `${kind} filter at pref ${priority}${program === '' ? '' : ` (${program})`}`;
    if (priority >= limit)
      return ok(`hook ${name}`, `${who} runs after udp_fanout and sees all that is not a listener's`);
    const means = `${who} runs before udp_fanout: a datagram for which it returns TC_ACT_OK never comes here, and ${UNSEEN}`;
    const mend = /cil_|cilium/i.test(program) ? CILIUM : 'give it a pref above 49152, or have it return TC_ACT_UNSPEC';
    return warn(`hook ${name}`, means, mend);
  });
}

/** Checked against cilium/cilium#18896 and #36172. */
const CILIUM =
  'set enable-tcx: "false" and bpf-filter-priority: "50000" in cilium-config and restart the node, or use mode: userspace';

function tcx({ name, tcx }: Hook): Finding[] {
  if (typeof tcx === 'string') return [];
  return tcx.map(({ id, name: program = '' }) => {
    const who = `tcx program ${id}${program === '' ? '' : ` (${program})`}`;
    const means = `${who} runs before every tc filter: a datagram for which it returns TCX_PASS never comes here, and ${UNSEEN}`;
    const mend = program.startsWith('cil_') ? CILIUM : 'have it return TCX_NEXT for what is not its own';
    return warn(`hook ${name}`, means, mend);
  });
}

function xdp({ name, xdp }: Hook): Finding[] {
  if (xdp === undefined) return [];
  const means = `XDP program ${xdp} sees each frame first: what it drops or redirects never comes here, and ${UNSEEN}`;
  return [warn(`hook ${name}`, means, `see \`bpftool prog show id ${xdp}\``)];
}
