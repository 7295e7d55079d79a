/** What changes between this host and an address: links, neighbours, stations behind bridges, routes. */
import { constants } from 'node:os';
import { setTicker } from '../clock.ts';
import { type Channel, openNotices } from './channel.ts';
import { decodeLastDrops } from './drops.ts';
import { decodeMessages, LITTLE_ENDIAN, type Message } from './message.ts';
import { decodeNeighbour, decodeStation, type Neighbour, type Station } from './neighbour.ts';
import { decodePrefix, type Prefix } from './route.ts';
import type { WatchParts } from './watch.ts';

/** One change; `everything`: there were more than are told one by one, or one that concerns all. */
export type Notice =
  /** `gone`: it was deleted, or moved elsewhere, and so many packets it had dropped on the way out. */
  | {
      readonly kind: 'link';
      readonly ifindex: number;
      readonly gone?: { readonly name: string; readonly packets: number };
    }
  | { readonly kind: 'neighbour'; readonly neighbour: Neighbour }
  | { readonly kind: 'station'; readonly station: Station }
  | { readonly kind: 'route'; readonly prefix: Prefix }
  | { readonly kind: 'everything' };

export interface NoticeWatchOptions {
  readonly onNotice: (notice: Notice) => void;
  /** After each drain, also one without notices. */
  readonly onDrained: () => void;
  /** Milliseconds between two looks at the socket; default 100. */
  readonly drainMs?: number;
}

/** RTNLGRP_* of linux/rtnetlink.h: LINK, NEIGH, IPV4_ROUTE, IPV4_RULE, IPV6_ROUTE, IPV6_RULE, NEXTHOP. */
const GROUPS = [1, 3, 7, 8, 11, 19, 32];
const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_NEWROUTE = 24;
const RTM_DELROUTE = 25;
const RTM_NEWNEIGH = 28;
const RTM_DELNEIGH = 29;

/**
 * A node that speaks BGP may have a million routes and be told of thousands of changes a second. So many notices of a drain
 * are read; what lies beyond is one that says `everything`, and costs as much as a receive.
 */
const READ_PER_DRAIN = 256;
const NOTICES_PER_DRAIN = 4096;
const BUFFER_BYTES = 16_384;

/** Watches the network namespace of the calling thread, from now on. Throws SystemError if there is no socket to be had. */
export function watchNotices(
  { onNotice, onDrained, drainMs = 100 }: NoticeWatchOptions,
  { open = openNotices, ticker = setTicker }: Partial<WatchParts> = {},
): { close(): void } {
  const channel = open(GROUPS);
  const buffer = new Uint8Array(BUFFER_BYTES);
  const stop = ticker(drainMs, () => {
    if (drain(channel, buffer, onNotice)) onNotice({ kind: 'everything' });
    onDrained();
  });
  return {
    close() {
      stop();
      channel.close();
    },
  };
}

/** True if there was more than was told. */
function drain(channel: Channel, buffer: Uint8Array, onNotice: (notice: Notice) => void): boolean {
  let more = false;
  for (let notices = 0; notices < NOTICES_PER_DRAIN; notices++) {
    const length = channel.receive(buffer);
    if (length === -constants.errno.EAGAIN) return more;
    // Negative: the kernel says that it could not deliver a notice (ENOBUFS, rtnl_set_sk_err).
    more ||= length < 0 || length > buffer.length || notices >= READ_PER_DRAIN;
    if (more) continue;
    for (const message of decodeMessages(buffer.subarray(0, length))) {
      const notice = decode(message);
      if (notice) onNotice(notice);
    }
  }
  return more;
}

function decode({ type, payload }: Message): Notice | undefined {
  switch (type) {
    case RTM_NEWLINK:
      // ifi_index; the rest is asked for when it matters.
      return { kind: 'link', ifindex: new DataView(payload.buffer, payload.byteOffset).getInt32(4, LITTLE_ENDIAN) };
    case RTM_DELLINK:
      // One of a bridge's port (AF_BRIDGE) says that it has left the bridge.
      return { kind: 'link', ...decodeLastDrops(payload) };
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH:
      return neighbourNotice(payload);
    case RTM_NEWROUTE:
    case RTM_DELROUTE: {
      const prefix = decodePrefix(payload);
      return prefix && { kind: 'route', prefix };
    }
    default:
      return { kind: 'everything' };
  }
}

function neighbourNotice(payload: Uint8Array): Notice | undefined {
  const neighbour = decodeNeighbour(payload);
  if (neighbour) return { kind: 'neighbour', neighbour };
  const station = decodeStation(payload);
  return station && { kind: 'station', station };
}
