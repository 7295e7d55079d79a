/** The kernel's ticks (jiffies): how long one is differs by how the kernel was built (CONFIG_HZ). */
import { check } from '../ffi/errno.ts';
import { libc } from '../ffi/libc.ts';

/** linux/time.h: a clock that only moves with the ticks, so that its resolution is one. */
const CLOCK_MONOTONIC_COARSE = 6;

/** So many seconds as ticks, rounded up. Throws SystemError. */
export function ticksOf(seconds: number): number {
  const resolution = new BigInt64Array(2);
  check('clock_getres', libc.clock_getres(CLOCK_MONOTONIC_COARSE, resolution));
  const nanoseconds = Number(resolution[0]) * 1e9 + Number(resolution[1]);
  return Math.ceil((seconds * 1e9) / nanoseconds);
}
