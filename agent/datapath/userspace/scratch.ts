/** What a batch is worked on with and leaves nothing in: forwarders of one thread share it. */

import { Memory } from '../../ffi/mmsg.ts';
import { GatherPlan, MAX_SEGMENTS } from './gather.ts';
import { MessageBlock } from './messages.ts';
import { UDP_HEADER } from './raw.ts';
import { ReceiveBatch } from './receive.ts';
import { BatchSources } from './sources.ts';

export class Scratch {
  readonly batch: ReceiveBatch;
  readonly plan: GatherPlan;
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
    this.plan = new GatherPlan(datagrams);
    this.sources = new BatchSources(messages);
    // A datagram with a header of ours has two pieces.
    this.messages = new MessageBlock(datagrams, datagrams * 2);
    this.singles = new MessageBlock(MAX_SEGMENTS, MAX_SEGMENTS);
    this.headers = new Memory(datagrams * UDP_HEADER);
  }
}
