/** A network namespace of one's own, for what must not touch this host's. */
import { closeSync, openSync } from 'node:fs';
import { check, SystemError } from './errno.ts';
import { CLONE_NEWNET, libc } from './libc.ts';

const HOME = '/proc/thread-self/ns/net';

/**
 * Runs `work` with this thread in a fresh network namespace, which has nothing but a `lo` of index 1 and goes when `work`
 * returns. `work` must not wait for anything: the thread has other work, too. Throws SystemError: EPERM without the
 * capability SYS_ADMIN, ENOSPC where user.max_net_namespaces allows no more, ENOENT in a kernel without CONFIG_NET_NS.
 */
export function inFreshNetwork<T>(work: () => T): T {
  const home = openHome();
  try {
    check('unshare of the network', libc.unshare(CLONE_NEWNET));
    try {
      return work();
    } finally {
      goTo(home);
    }
  } finally {
    closeSync(home);
  }
}

function openHome(): number {
  try {
    return openSync(HOME, 'r');
  } catch (error) {
    throw new SystemError(`open of ${HOME}`, -((error as NodeJS.ErrnoException).errno ?? 0));
  }
}

/** Failing is no SystemError, which callers may live with: what is looked at after that would be an empty network. */
function goTo(home: number): void {
  if (libc.setns(home, CLONE_NEWNET) < 0) throw new Error('no way back to the network namespace of this process');
}
