/** What a batch is worked on with and leaves nothing in: forwarders of one thread share it. */
import { Memory } from '../../../ffi/mmsg.ts';
import { MessageBlock } from '../messages/message-block.ts';
import { ReceiveBatch } from '../messages/receive-batch.ts';
import { UDP_HEADER } from '../messages/udp-header.ts';
import { BatchSources } from './batch-sources.ts';
import { GsoPlan, MAX_SEGMENTS } from './gso-plan.ts';

export class BatchBuffers {
  readonly batch: ReceiveBatch;
  readonly plan: GsoPlan;
  readonly sources: BatchSources;
  readonly messages: MessageBlock;
  /** For the datagrams of one run that could not be sent as one. */
  readonly singles: MessageBlock;
  /** Headers of our own for datagrams without headroom. */
  readonly headers: Memory;

  /** For batches of so many messages, and datagrams of so many bytes. */
  constructor(messages: number, bytes: number, coalesces: boolean) {
    this.batch = new ReceiveBatch(messages, bytes, coalesces);
    const { datagrams } = this.batch;
    this.plan = new GsoPlan(datagrams);
    this.sources = new BatchSources(messages);
    // A datagram with a header of ours has two pieces.
    this.messages = new MessageBlock(datagrams, datagrams * 2);
    this.singles = new MessageBlock(MAX_SEGMENTS, MAX_SEGMENTS);
    this.headers = new Memory(datagrams * UDP_HEADER);
  }
}

/** Of this thread, by size, since no two of its forwarders are ever at work at once; gone with the last that has them. */
const shared = new Map<string, WeakRef<BatchBuffers>>();

/** Messages that there is room for where a batch has at most so many: few sizes, which forwarders can share. */
export function roomFor(batchSize: number): number {
  return 2 ** Math.ceil(Math.log2(batchSize));
}

/** This thread's buffers for batches of so many messages at least. */
export function sharedBuffers(batchSize: number, bytes: number, coalesces: boolean): BatchBuffers {
  const messages = roomFor(batchSize);
  const key = `${messages} ${coalesces || bytes}`;
  const buffers = shared.get(key)?.deref() ?? new BatchBuffers(messages, bytes, coalesces);
  shared.set(key, new WeakRef(buffers));
  return buffers;
}
