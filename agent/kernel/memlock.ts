/**
 * Memory for BPF maps. Before Linux 5.11 all maps and programs of a user count together against the RLIMIT_MEMLOCK of
 * whoever makes the next one, and what goes beyond it is refused with EPERM, as if a right were missing.
 */
import { libc, RLIMIT_MEMLOCK } from '../ffi/libc.ts';
import { predates } from './features.ts';

const UNLIMITED = 2n ** 64n - 1n;

/** struct rlimit, in bytes. */
export interface Limit {
  readonly soft: bigint;
  readonly hard: bigint;
}

export function readMemlock(): Limit {
  const [soft = 0n, hard = 0n] = limits(null);
  return { soft, hard };
}

/** Raises the limit as far as this process may: to none with the capability SYS_RESOURCE, else to the hard one. */
export function raiseMemlock(): void {
  const { hard } = readMemlock();
  if (libc.prlimit(0, RLIMIT_MEMLOCK, new BigUint64Array([UNLIMITED, UNLIMITED]), null) === 0) return;
  limits(new BigUint64Array([hard, hard]));
}

/** True if maps may be refused for want of memory that this process may lock. */
export function isMemoryLimited(release: string, { soft }: Limit): boolean {
  return predates(release, 'maps counted to the cgroup') && soft !== UNLIMITED;
}

/** The limit and what to do about it, for a refusal that it explains. */
export function memoryShortage(limit: Limit, needed?: number): string {
  const { soft, hard } = limit;
  const bytes = (value: bigint) => (value === UNLIMITED ? 'unlimited' : `${value} bytes`);
  const wants = needed === undefined ? '' : `, and the smallest maps that would do take about ${needed} bytes`;
  const is = `RLIMIT_MEMLOCK is ${bytes(soft)} (hard limit ${bytes(hard)})${wants}`;
  const counts = "before Linux 5.11 all BPF maps and programs of root count against it, other processes' too";
  const raise = 'add the capability SYS_RESOURCE (k8s/components/with-sys-resource)';
  return `no memory for maps: ${is}: ${counts}: ${raise}, or start the agent with ulimit -l unlimited, LimitMEMLOCK=infinity`;
}

function limits(set: BigUint64Array | null): BigUint64Array {
  const were = new BigUint64Array(2);
  libc.prlimit(0, RLIMIT_MEMLOCK, set, were);
  return were;
}
