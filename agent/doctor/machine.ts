/** The kernel, the BPF object, what a running agent means, and bpffs. */
import { type Finding, ok, warn } from './finding.ts';
import { type Wants, withoutKernelPath } from './wants.ts';

export interface MachineFacts {
  /** As `uname -r` says. */
  readonly release: string;
  /** Why the BPF object does not load; undefined if it does. */
  readonly obstacle?: string;
  readonly bpffs: boolean;
  /** An agent runs in this network namespace. */
  readonly agent: boolean;
}

/** From this version on a note is superfluous, and what it says. */
const NOTES: readonly (readonly [until: string, note: string])[] = [
  ['5.11', 'before 5.11 maps count against RLIMIT_MEMLOCK: where the load fails, raise it (ulimit -l unlimited)'],
  ['5.12', "before 5.12 a datagram is held against the MTU of the interface it leaves by, not against a route's own"],
];

export function machineFindings(facts: MachineFacts, wants: Wants): Finding[] {
  return [kernel(facts, wants), object(facts, wants), agent(facts), bpffs(facts)];
}

function kernel({ release }: MachineFacts, wants: Wants): Finding {
  const version = versionOf(release);
  const level = withoutKernelPath(wants);
  if (version === undefined) {
    return warn('kernel', `version "${release}" is not understood`, 'see to it that it is at least 5.10');
  }
  if (version < versionOf('5.10')!) {
    if (level === 'ok') return ok('kernel', `${release}: the kernel path needs 5.10, but no listener asks for it`);
    const means = `${release} is older than 5.10, which the kernel path needs (bpf_redirect_neigh)`;
    return { level, what: 'kernel', means, mend: 'take a newer kernel, or set mode: userspace' };
  }
  const notes = NOTES.filter(([until]) => version < versionOf(until)!).map(([, note]) => note);
  const tcx = version < versionOf('6.6')! ? [] : ["others' programs may sit on tcx, which runs before every tc filter"];
  return ok('kernel', [`${release} is at least 5.10`, ...notes, ...tcx].join('; '));
}

/** 5.10 as 5010, so that 5.4 is less. */
function versionOf(release: string): number | undefined {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release) ?? [];
  return major === undefined ? undefined : Number(major) * 1000 + Number(minor);
}

function object({ obstacle }: MachineFacts, wants: Wants): Finding {
  const what = 'BPF object';
  if (obstacle === undefined) return ok(what, 'the kernel takes the program and its maps');
  const level = withoutKernelPath(wants);
  if (level === 'ok') return ok(what, `does not load here (${obstacle}), but no listener asks for the kernel path`);
  const mend =
    level === 'warn'
      ? 'until then listeners of mode auto fall back to userspace'
      : 'or set mode: userspace, which needs none of it';
  return { level, what, means: obstacle, mend };
}

function agent({ agent }: MachineFacts): Finding {
  if (!agent) return ok('agent', 'none runs in this network namespace, so one can start');
  return ok('agent', 'one runs in this network namespace; a second one would be turned away with exit code 1');
}

function bpffs({ bpffs }: MachineFacts): Finding {
  const is = bpffs ? 'is mounted at /sys/fs/bpf' : 'is not mounted';
  return ok('bpffs', `${is}; it is not needed, since the attached filter itself keeps program and maps`);
}
