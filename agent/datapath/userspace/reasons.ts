/** Why a datagram is lost in the userspace datapath: the name in metrics, and what it means. */
import { constants } from 'node:os';

/** In the order of the counters. Names of system call errors are those of errno(3). */
export const REASONS = [
  { name: 'receive_buffer', meaning: 'the receive buffer was full (SO_RXQ_OVFL), or the UDP checksum was wrong' },
  { name: 'truncated', meaning: 'larger than max_packet_size' },
  { name: 'martian_source', meaning: 'its source is 0.0.0.0/8 or ::, which nothing may be forwarded with' },
  { name: 'no_downstream', meaning: 'no live downstream' },
  { name: 'EAGAIN', meaning: 'the send buffer was full' },
  { name: 'ECONNREFUSED', meaning: 'the downstream refused it: nothing listens on its port' },
  { name: 'EMSGSIZE', meaning: 'larger than the way to the downstream takes' },
  { name: 'ENETUNREACH', meaning: 'no route to the downstream' },
  { name: 'EHOSTUNREACH', meaning: 'the downstream could not be reached' },
  { name: 'ENOBUFS', meaning: 'the queue of the way out was full, or out of memory' },
  { name: 'EPERM', meaning: 'a firewall rule of this host refused it' },
  { name: 'worker_died', meaning: 'a worker, or the safety net, had it in hand and failed' },
  { name: 'send_failed', meaning: 'the send failed in another way' },
] as const;

export type Reason = (typeof REASONS)[number]['name'];

/** Index of a reason. */
export const REASON = Object.fromEntries(REASONS.map(({ name }, index) => [name, index])) as Record<Reason, number>;

const BY_ERRNO = new Map(
  Object.entries(constants.errno).flatMap(([name, errno]) =>
    name in REASON ? [[errno as number, REASON[name as Reason]] as const] : [],
  ),
);

/** Index of the reason behind a failed send. */
export function reasonOf(errno: number): number {
  return BY_ERRNO.get(errno) ?? REASON.send_failed;
}

/** The name of the reason behind a failed send. */
export function reasonNameOf(errno: number): Reason {
  return REASONS[reasonOf(errno)]!.name;
}
