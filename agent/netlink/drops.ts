/** What links and their queues have dropped on the way out (linux/if_link.h, linux/pkt_sched.h, linux/gen_stats.h). */
import { decodePayload, LITTLE_ENDIAN } from './message.ts';

export interface Drops {
  readonly ifindex: number;
  /** Packets since the link, or its queue, was made. */
  readonly packets: number;
}

const IF_STATS_MSG = 12;
const IFLA_STATS_LINK_64 = 1;
/** tx_dropped of struct rtnl_link_stats64. */
const TX_DROPPED = 56;
const TCMSG = 20;
const TC_H_ROOT = 0xffffffff;
const TCA_STATS2 = 7;
const TCA_STATS_QUEUE = 3;
/** drops of struct gnet_stats_queue. */
const QUEUE_DROPS = 8;

const IFINFOMSG = 16;
const AF_UNSPEC = 0;
const IFLA_IFNAME = 3;
const IFLA_STATS64 = 23;

/** The payload of an RTM_GETSTATS dump of all links' counters. */
export function statsRequest(): Uint8Array {
  const header = new DataView(new ArrayBuffer(IF_STATS_MSG));
  header.setUint32(8, 1 << (IFLA_STATS_LINK_64 - 1), LITTLE_ENDIAN);
  return new Uint8Array(header.buffer);
}

/** The payload of an RTM_GETQDISC dump of all queues. */
export function queuesRequest(): Uint8Array {
  return new Uint8Array(TCMSG);
}

/** What a device dropped, in the payload of an RTM_NEWSTATS. */
export function decodeLinkDrops(payload: Uint8Array): Drops | undefined {
  const { header, attributes } = decodePayload(payload, IF_STATS_MSG);
  const packets = txDropped(attributes.bytes(IFLA_STATS_LINK_64));
  return packets === undefined ? undefined : { ifindex: header.getUint32(4, LITTLE_ENDIAN), packets };
}

/** A link that is gone, and what it had dropped by then, in the payload of an RTM_DELLINK; one of a bridge's port tells neither. */
export function decodeLastDrops(payload: Uint8Array): {
  readonly ifindex: number;
  readonly gone?: { readonly name: string; readonly packets: number };
} {
  const { header, attributes } = decodePayload(payload, IFINFOMSG);
  const ifindex = header.getInt32(4, LITTLE_ENDIAN);
  if (header.getUint8(0) !== AF_UNSPEC) return { ifindex };
  const packets = txDropped(attributes.bytes(IFLA_STATS64)) ?? 0;
  return { ifindex, gone: { name: attributes.text(IFLA_IFNAME) ?? '', packets } };
}

/** Of struct rtnl_link_stats64. */
function txDropped(stats: Uint8Array | undefined): number | undefined {
  if (stats === undefined || stats.length < TX_DROPPED + 8) return undefined;
  return Number(new DataView(stats.buffer, stats.byteOffset).getBigUint64(TX_DROPPED, LITTLE_ENDIAN));
}

/** What a device's outermost queue dropped, which has what those within did; undefined for these, and for ingress. */
export function decodeQueueDrops(payload: Uint8Array): Drops | undefined {
  const { header, attributes } = decodePayload(payload, TCMSG);
  const queue = attributes.nested(TCA_STATS2).bytes(TCA_STATS_QUEUE);
  if (header.getUint32(12, LITTLE_ENDIAN) !== TC_H_ROOT) return undefined;
  if (queue === undefined || queue.length < QUEUE_DROPS + 4) return undefined;
  const packets = new DataView(queue.buffer, queue.byteOffset).getUint32(QUEUE_DROPS, LITTLE_ENDIAN);
  return { ifindex: header.getInt32(4, LITTLE_ENDIAN), packets };
}
