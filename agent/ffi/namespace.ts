/** A network namespace of one's own, for what must not touch this host's. */
import { closeSync, openSync } from 'node:fs';
import { check } from './errno.ts';
import { CLONE_NEWNET, libc } from './libc.ts';

/**
 * Runs `work` with this thread in a fresh network namespace, which has nothing but a `lo` of index 1 and goes when `work`
 * returns. `work` must not wait for anything: the thread has other work, too. Throws SystemError, EPERM without the
 * capability SYS_ADMIN.
 */
export function inFreshNetwork<T>(work: () => T): T {
  const home = openSync('/proc/thread-self/ns/net', 'r');
  try {
    check('unshare of the network', libc.unshare(CLONE_NEWNET));
    try {
      return work();
    } finally {
      check('return to the network namespace', libc.setns(home, CLONE_NEWNET));
    }
  } finally {
    closeSync(home);
  }
}
