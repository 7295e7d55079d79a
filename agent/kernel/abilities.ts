/** What forwarding in userspace finds here, by trying: what the kernel knows, and what this process may do. */

import { constants } from 'node:os';
import { FAMILIES } from '../address.ts';
import { check } from '../ffi/errno.ts';
import { IP_TRANSPARENT, IPPROTO_UDP, libc, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, SOL_IP } from '../ffi/libc.ts';
import { hasCoalescing, hasSegmentation } from './features.ts';

const { EACCES, EPERM } = constants.errno;

export interface Abilities {
  /** It may send from addresses that are not this host's. */
  readonly transparent: boolean;
  /** It may send datagrams with its own UDP header. */
  readonly raw: boolean;
  /** The kernel knows UDP_SEGMENT, and UDP_GRO. */
  readonly gathers: boolean;
  readonly coalesces: boolean;
}

let found: Abilities | undefined;

/** Asked once, when a first listener needs it. Throws SystemError where it cannot be told now, for want of descriptors. */
export function abilities(): Abilities {
  found ??= {
    transparent: mayBeTransparent(),
    raw: mayBeRaw(),
    gathers: hasSegmentation(),
    coalesces: hasCoalescing(),
  };
  return found;
}

function mayBeTransparent(): boolean {
  const fd = check('socket', libc.socket(FAMILIES[4].af, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const result = libc.setsockopt(fd, SOL_IP, IP_TRANSPARENT, new Int32Array([1]), 4);
  libc.close(fd);
  return isAllowed('setsockopt(IP_TRANSPARENT)', result);
}

function mayBeRaw(): boolean {
  const fd = libc.socket(FAMILIES[4].af, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_UDP);
  if (!isAllowed('socket', fd)) return false;
  libc.close(fd);
  return true;
}

function isAllowed(operation: string, result: number): boolean {
  if (result === -EPERM || result === -EACCES) return false;
  return check(operation, result) >= 0;
}
