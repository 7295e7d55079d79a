/**
 * What the program and the agent ask of a kernel that some kernels lack: since when it is there, and what is done
 * without it. Whether it is there is found out by trying, never by the version, which distributions patch; the version
 * only words an explanation.
 */
import { FAMILIES } from '../address.ts';
import { check } from '../ffi/errno.ts';
import { libc, SOCK_CLOEXEC, SOCK_DGRAM, SOL_UDP, UDP_GRO, UDP_SEGMENT } from '../ffi/libc.ts';

export interface Feature {
  readonly name: string;
  /** The first Linux that has it. */
  readonly since: string;
  readonly without: string;
  /** Whether an operator of an older kernel should be told. */
  readonly told?: true;
}

/** From old to new. Below 5.10 there is no kernel path at all, so little of what it alone needs is listed. */
export const FEATURES = [
  { name: 'UDP_SEGMENT', since: '4.18', without: 'userspace sends each datagram by itself' },
  { name: 'UDP_GRO', since: '5.0', without: 'userspace receives each datagram by itself' },
  {
    name: 'BPF ring buffer',
    since: '5.8',
    without: 'no kernel path: what the program cannot send goes by it to the safety net',
  },
  { name: 'bpf_redirect_neigh', since: '5.10', without: 'no kernel path: mode auto takes userspace' },
  {
    name: 'maps counted to the cgroup',
    since: '5.11',
    without: 'maps count against RLIMIT_MEMLOCK, so they are made smaller where it is low',
    told: true,
  },
  {
    name: 'tot_len of bpf_fib_lookup',
    since: '5.12',
    without:
      "unless the distribution has brought it back, as Debian's 5.10 has, a datagram is held against the MTU of the interface that it leaves by, not against a route's own",
    told: true,
  },
  { name: 'tcx', since: '6.6', without: 'nobody else can sit before tc filters; ours is a tc filter everywhere' },
  { name: 'BPF_F_IPV6', since: '6.16', without: 'the program sees the refusal and asks without the flag' },
] as const satisfies readonly Feature[];

export type FeatureName = (typeof FEATURES)[number]['name'];

/** 5.10 as 5010, so that 5.4 is less; undefined where a release has no version that can be read. */
export function versionOf(release: string): number | undefined {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release) ?? [];
  return major === undefined ? undefined : Number(major) * 1000 + Number(minor);
}

/** True if a kernel of this release is older than the feature; distributions may have brought it back all the same. */
export function predates(release: string, name: FeatureName): boolean {
  const { since } = FEATURES.find((feature) => feature.name === name)!;
  const version = versionOf(release);
  return version !== undefined && version < versionOf(since)!;
}

/** What an operator should know of a kernel of this release, a sentence for each feature that it is too old for. */
export function lacks(release: string): string[] {
  const told: readonly Feature[] = FEATURES.filter((feature) => 'told' in feature);
  return told
    .filter(({ name }) => predates(release, name as FeatureName))
    .map(({ since, without }) => `before ${since} ${without}`);
}

/** True if the kernel knows UDP_SEGMENT; one that does not would send what is gathered as one datagram. */
export function hasSegmentation(): boolean {
  return knows(UDP_SEGMENT, 0);
}

export function hasCoalescing(): boolean {
  return knows(UDP_GRO, 1);
}

function knows(option: number, value: number): boolean {
  const fd = check('socket', libc.socket(FAMILIES[4].af, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const result = libc.setsockopt(fd, SOL_UDP, option, new Int32Array([value]), 4);
  libc.close(fd);
  return result === 0;
}
