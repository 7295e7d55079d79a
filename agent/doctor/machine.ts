/** The kernel, the BPF object, whether it attaches, and bpffs. */
import { lacks, predates, versionOf } from '../kernel/features.ts';
import type { KernelFacts } from './facts/kernel.ts';
import { type Finding, ok, warn } from './finding.ts';
import { type Requirements, withoutKernelPath } from './requirements.ts';

export interface MachineFacts extends KernelFacts {
  /** As `uname -r` says. */
  readonly release: string;
  readonly bpffs: boolean;
}

export function machineFindings(facts: MachineFacts, requirements: Requirements): Finding[] {
  return [kernel(facts, requirements), object(facts, requirements), ...attachment(facts, requirements), bpffs(facts)];
}

function kernel({ release }: MachineFacts, requirements: Requirements): Finding {
  const version = versionOf(release);
  const level = withoutKernelPath(requirements);
  if (version === undefined) {
    return warn('kernel', `version "${release}" is not understood`, 'see to it that it is at least 5.10');
  }
  if (predates(release, 'bpf_redirect_neigh')) {
    if (level === 'ok') return ok('kernel', `${release}: the kernel path needs 5.10, but no listener asks for it`);
    const means = `${release} is older than 5.10, which the kernel path needs (bpf_redirect_neigh)`;
    return { level, what: 'kernel', means, mend: 'take a newer kernel, or set mode: userspace' };
  }
  const tcx = predates(release, 'tcx') ? [] : ["others' programs may sit on tcx, which runs before every tc filter"];
  return ok('kernel', [`${release} is at least 5.10`, ...lacks(release), ...tcx].join('; '));
}

function object({ obstacle, remark }: MachineFacts, requirements: Requirements): Finding {
  const what = 'BPF object';
  if (obstacle !== undefined) return refused(what, `does not load here (${obstacle})`, obstacle, requirements);
  if (remark !== undefined) return warn(what, remark, 'see RLIMIT_MEMLOCK in docs/TROUBLESHOOTING.md');
  return ok(what, 'the kernel takes the program and its maps');
}

/** A load that succeeds says nothing of the qdisc and the filter, which are modules of their own. */
function attachment({ attaches }: MachineFacts, requirements: Requirements): Finding[] {
  const what = 'attachment';
  if (attaches === undefined) return [];
  if (attaches === true) return [ok(what, 'the program attaches (tried on lo of a network namespace of its own)')];
  if (typeof attaches === 'string') return [refused(what, `is impossible here (${attaches})`, attaches, requirements)];
  const why =
    attaches.code === 'EPERM'
      ? 'a network namespace to try it in wants the capability SYS_ADMIN, which the agent does without'
      : `there is no network namespace to try it in (${attaches.message}), which the agent does without`;
  return [ok(what, `was not tried: ${why}`)];
}

function refused(what: string, aside: string, means: string, requirements: Requirements): Finding {
  const level = withoutKernelPath(requirements);
  if (level === 'ok') return ok(what, `${aside}, but no listener asks for the kernel path`);
  const mend =
    level === 'warn'
      ? 'until then listeners of mode auto fall back to userspace'
      : 'or set mode: userspace, which needs none of it';
  return { level, what, means, mend };
}

function bpffs({ bpffs }: MachineFacts): Finding {
  const is = bpffs ? 'is mounted at /sys/fs/bpf' : 'is not mounted';
  return ok('bpffs', `${is}; it is not needed, since the attached filter itself keeps program and maps`);
}
