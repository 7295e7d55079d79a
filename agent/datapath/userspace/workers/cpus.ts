/** The CPUs that this process may use, and those that a thread stays on (sched_setaffinity(2)). */
import { check } from '../../../ffi/errno.ts';
import { libc } from '../../../ffi/libc.ts';

/** Bytes of a mask of 8192 CPUs, as many as a kernel is ever built for. */
const MASK_BYTES = 1024;

/** Numbers of the CPUs that the calling thread may run on. Throws SystemError. */
export function allowedCpus(): number[] {
  const mask = new Uint8Array(MASK_BYTES);
  check('sched_getaffinity', libc.sched_getaffinity(0, mask.length, mask));
  const cpus: number[] = [];
  for (let cpu = 0; cpu < MASK_BYTES * 8; cpu++) if ((mask[cpu >> 3]! >> (cpu & 7)) & 1) cpus.push(cpu);
  return cpus;
}

/** Lets the calling thread run on these CPUs only. Throws SystemError. */
export function runOn(cpus: readonly number[]): void {
  const mask = new Uint8Array(MASK_BYTES);
  for (const cpu of cpus) mask[cpu >> 3]! |= 1 << (cpu & 7);
  check('sched_setaffinity', libc.sched_setaffinity(0, mask.length, mask));
}
