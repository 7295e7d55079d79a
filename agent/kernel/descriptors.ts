/** Descriptors (RLIMIT_NOFILE): what forwarding can do without leaves some to the rest of the agent. */
import { check } from '../ffi/errno.ts';
import { F_DUPFD_CLOEXEC, libc, RLIMIT_NOFILE } from '../ffi/libc.ts';

/** For scrapes and probes, watches, new tables, threads that start again. */
export const KEPT_BACK = 128;

/**
 * The first descriptor that is kept back. The kernel gives the lowest number that is free, in all threads: whoever gets
 * this one or a higher one knows that no others are left.
 */
export function firstKeptBack(): number {
  return Math.max(0, readDescriptorLimit() - KEPT_BACK);
}

/** True while only those that are kept back are left. */
export function isShortOfDescriptors(): boolean {
  const fd = libc.fcntl(STDERR, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return true;
  check('close', libc.close(fd));
  return fd >= firstKeptBack();
}

const STDERR = 2;

/** The soft limit, which Node has raised to the hard one at its start. */
export function readDescriptorLimit(): number {
  const limits = new BigUint64Array(2);
  check('prlimit', libc.prlimit(0, RLIMIT_NOFILE, null, limits));
  return Number(limits[0]!);
}
