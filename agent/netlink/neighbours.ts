/** Notice of neighbours that do not answer, read from what the kernel tells anyway. */
import { constants } from 'node:os';
import { setTicker } from '../clock.ts';
import { type Channel, openNotices } from './channel.ts';
import { decodeMessages } from './message.ts';
import { decodeNeighbour, type Neighbour } from './neighbour.ts';
import type { WatchParts } from './watch.ts';

export interface NeighbourWatchOptions {
  /** Called for each neighbour that has become FAILED, perhaps several times. */
  readonly onFailed: (neighbour: Neighbour) => void;
  /** Milliseconds between two looks at the socket; default 100. */
  readonly drainMs?: number;
}

/** RTNLGRP_NEIGH and RTM_NEWNEIGH of linux/rtnetlink.h. */
const GROUP = 3;
const RTM_NEWNEIGH = 28;

/** A flood must not keep the event loop for itself: what is left waits for the next tick. */
const NOTICES_PER_DRAIN = 256;
const BUFFER_BYTES = 4096;

/** Watches the network namespace of the calling thread, from now on. Throws SystemError if there is no socket to be had. */
export function watchNeighbours(
  { onFailed, drainMs = 100 }: NeighbourWatchOptions,
  { open = openNotices, ticker = setTicker }: Partial<WatchParts> = {},
): { close(): void } {
  const channel = open([GROUP]);
  const buffer = new Uint8Array(BUFFER_BYTES);
  const stop = ticker(drainMs, () => drain(channel, buffer, onFailed));
  return {
    close() {
      stop();
      channel.close();
    },
  };
}

function drain(channel: Channel, buffer: Uint8Array, onFailed: (neighbour: Neighbour) => void): void {
  for (let notices = 0; notices < NOTICES_PER_DRAIN; notices++) {
    const length = channel.receive(buffer);
    if (length === -constants.errno.EAGAIN) return;
    // Notices that did not fit, one way or the other, are lost: whoever listens must not depend on them.
    if (length < 0 || length > buffer.length) continue;
    for (const { type, payload } of decodeMessages(buffer.subarray(0, length))) {
      const neighbour = type === RTM_NEWNEIGH ? decodeNeighbour(payload) : undefined;
      if (neighbour?.failed) onFailed(neighbour);
    }
  }
}
