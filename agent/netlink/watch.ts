/** Notice of changes to links, addresses and tc filters; says that something changed, not what. */
import { constants } from 'node:os';
import { setTicker, type Ticker } from '../clock.ts';
import { type Channel, openNotices } from './channel.ts';

/** Why to look again: the kernel said so, or it had more to say than fitted. */
export type ChangeCause = 'notice' | 'overflow';

export interface WatchOptions {
  /** Called at most once a drain. It should only trigger: links may send notices for counters many times a second. */
  readonly onChange: (cause: ChangeCause) => void;
  /** Milliseconds between two looks at the socket; default 100. */
  readonly drainMs?: number;
}

/** What a test replaces, and the ticker an agent that outlives an error in a tick. */
export interface WatchParts {
  readonly open: (groups: readonly number[]) => Channel;
  readonly ticker: Ticker;
}

// RTNLGRP_* of linux/rtnetlink.h: LINK, TC, IPV4_IFADDR, IPV6_IFADDR. Not routes, of which few matter: notices.ts.
const GROUPS = [1, 4, 5, 9];

/** A flood must not keep the event loop for itself: what is left waits for the next tick. */
const NOTICES_PER_DRAIN = 4096;

/**
 * Watches the network namespace of the calling thread. Node does not poll foreign descriptors (koffi can, by calls that
 * it does not document), so a timer drains the socket: while nothing happens, that is one recv a tick. Start it before
 * the first read of the host, or a change in between goes unnoticed. Throws SystemError if there is no socket to be had.
 */
export function watchNetwork(
  { onChange, drainMs = 100 }: WatchOptions,
  { open = openNotices, ticker = setTicker }: Partial<WatchParts> = {},
): { close(): void } {
  const channel = open(GROUPS);
  const stop = ticker(drainMs, () => {
    const cause = drain(channel);
    if (cause !== undefined) onChange(cause);
  });
  return {
    close() {
      stop();
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
