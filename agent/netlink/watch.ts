/** Notice of changes to links, addresses and tc filters; says that something changed, not what. */
import { constants } from 'node:os';
import { type Channel, openNotices } from './channel.ts';

/** Why to look again: the kernel said so, it had more to say than fitted, or long enough has passed. */
export type ChangeCause = 'notice' | 'overflow' | 'resync';

export interface WatchOptions {
  /** Called at most once a drain. It should only trigger: links may send notices for counters many times a second. */
  readonly onChange: (cause: ChangeCause) => void;
  /** Notices of routes too. Off by default: a node that speaks BGP may have a million. */
  readonly routes?: boolean;
  /** Milliseconds between two looks at the socket; default 100. */
  readonly drainMs?: number;
  /** Milliseconds between two triggers without any notice; default 30000. */
  readonly resyncMs?: number;
}

/** Calls `tick` every so many milliseconds until the function it returns is called. */
export type Every = (milliseconds: number, tick: () => void) => () => void;

/** What a test replaces. */
export interface WatchParts {
  readonly open: (groups: readonly number[]) => Channel;
  readonly every: Every;
}

// RTNLGRP_* of linux/rtnetlink.h: LINK, TC, IPV4_IFADDR, IPV6_IFADDR; IPV4_ROUTE, IPV6_ROUTE.
const GROUPS = [1, 4, 5, 9];
const ROUTE_GROUPS = [7, 11];

/** A flood must not keep the event loop for itself: what is left waits for the next tick. */
const NOTICES_PER_DRAIN = 4096;

/** A timer that does not keep the process alive. */
export const everyUnref: Every = (milliseconds, tick) => {
  const timer = setInterval(tick, milliseconds).unref();
  return () => clearInterval(timer);
};

/**
 * Watches the network namespace of the calling thread. Node does not poll foreign descriptors (koffi can, by calls that
 * it does not document), so a timer drains the socket: while nothing happens, that is one recv a tick. Start it before
 * the first read of the host, or a change in between goes unnoticed. Throws SystemError if there is no socket to be had.
 */
export function watchNetwork(
  options: WatchOptions,
  { open, every }: WatchParts = { open: openNotices, every: everyUnref },
): { close(): void } {
  const { onChange, routes = false, drainMs = 100, resyncMs = 30_000 } = options;
  const channel = open(routes ? [...GROUPS, ...ROUTE_GROUPS] : GROUPS);
  const stopDrain = every(drainMs, () => {
    const cause = drain(channel);
    if (cause !== undefined) onChange(cause);
  });
  const stopResync = every(resyncMs, () => onChange('resync'));
  return {
    close() {
      stopDrain();
      stopResync();
      channel.close();
    },
  };
}

// That a notice arrived is all that matters, so next to nothing of it is copied.
const scrap = new Uint8Array(1);

function drain(channel: Channel): ChangeCause | undefined {
  let cause: ChangeCause | undefined;
  for (let notices = 0; notices < NOTICES_PER_DRAIN; notices++) {
    const result = channel.receive(scrap);
    if (result === -constants.errno.EAGAIN) return cause;
    // ENOBUFS, or another errno by which the kernel says that it could not deliver a notice (rtnl_set_sk_err).
    if (result < 0) cause = 'overflow';
    else cause ??= 'notice';
  }
  return cause;
}
