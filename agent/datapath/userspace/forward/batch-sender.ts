/** Sends a planned batch, queue by queue, and books what became of every datagram. Never waits for anybody. */

import { constants } from 'node:os';
import type { Family } from '../../../address.ts';
import { SystemError } from '../../../ffi/errno.ts';
import { SOCKADDR } from '../messages/layout.ts';
import type { MessageBlock } from '../messages/message-block.ts';
import { type Ends, UDP_HEADER, writeUdpHeader } from '../messages/udp-header.ts';
import { REASON, reasonOf } from '../reasons.ts';
import type { NatSocket } from '../sockets/nat.ts';
import type { ForwarderState } from '../workers/state.ts';
import type { BatchBuffers } from './batch-buffers.ts';
import { SOURCE_WORDS } from './batch-sources.ts';
import { SendQueues } from './send-queues.ts';
import { SOURCE_PATH, type SourcePaths } from './source-paths.ts';
import type { Targets } from './targets.ts';

const { ECONNREFUSED, EINVAL, EIO, EMSGSIZE } = constants.errno;
const NONE = -1;

export class BatchSender {
  readonly #buffers: BatchBuffers;
  readonly #paths: SourcePaths;
  readonly #state: ForwarderState;
  readonly #queues: SendQueues;
  #targets: Targets | undefined;
  /** Queues: one for each source, one raw for each family, one for each downstream. */
  readonly #rawQueue: number;
  readonly #natQueue: number;
  /** Filled for each raw run anew. */
  readonly #ends: Ends = {
    source: new Uint32Array(0),
    sourceAt: 0,
    target: new Uint32Array(0),
    targetAt: 0,
    targetPort: 0,
  };

  constructor(buffers: BatchBuffers, paths: SourcePaths, state: ForwarderState) {
    this.#buffers = buffers;
    this.#paths = paths;
    this.#state = state;
    this.#rawQueue = buffers.batch.messages;
    this.#natQueue = buffers.batch.messages + 2;
    this.#queues = new SendQueues(buffers.batch.datagrams, this.#natQueue);
  }

  setTargets(targets: Targets): void {
    this.#targets = targets;
    this.#queues.grow(this.#natQueue + targets.family.length);
  }

  /** Sends every run of the buffers's plan; the paths of its sources are chosen. */
  send(): void {
    const { plan } = this.#buffers;
    this.#queues.count = 0;
    for (let run = 0; run < plan.runs; run++) {
      const queue = this.#queueOf(run);
      if (queue === NONE) this.#state.dropped(REASON.martian_source, plan.count[run]!);
      else this.#queues.add(run, queue);
    }
    for (let i = 0; i < this.#queues.count; i++) {
      const queue = this.#queues.queues[i]!;
      const first = this.#queues.take(queue);
      if (queue >= this.#natQueue) this.#sendNat(queue - this.#natQueue, first);
      else if (queue >= this.#rawQueue) this.#sendRaw(queue === this.#rawQueue ? 4 : 6, first);
      else this.#sendByAddress(this.#paths.fd[queue]!, first);
    }
  }

  /** NONE if it may not leave. */
  #queueOf(run: number): number {
    const { plan } = this.#buffers;
    const source = plan.source[run]!;
    const path = this.#paths.path[source];
    if (path === SOURCE_PATH.CLIENT) return source;
    const downstream = plan.downstream[run]!;
    if (path === SOURCE_PATH.RAW) return this.#rawQueue + (this.#targets!.family[downstream] === 4 ? 0 : 1);
    return path === SOURCE_PATH.MARTIAN ? NONE : this.#natQueue + downstream;
  }

  #sendNat(downstream: number, first: number): void {
    let socket: NatSocket;
    try {
      socket = this.#targets!.natSocket(downstream);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#dropRuns(first, reasonOf(error.errno));
      return;
    }
    const { fd, connected } = socket;
    if (!connected) {
      this.#sendByAddress(fd, first);
      return;
    }
    const { messages } = this.#buffers;
    messages.clear();
    for (let run = first; run !== NONE; run = this.#queues.next[run]!) this.#write(messages, run);
    this.#flush(fd, messages, true);
  }

  #dropRuns(first: number, reason: number): void {
    const { count } = this.#buffers.plan;
    for (let run = first; run !== NONE; run = this.#queues.next[run]!) this.#state.dropped(reason, count[run]!);
  }

  #sendByAddress(fd: number, first: number): void {
    const { messages } = this.#buffers;
    messages.clear();
    for (let run = first; run !== NONE; run = this.#queues.next[run]!) {
      this.#write(messages, run);
      this.#address(messages, this.#buffers.plan.downstream[run]!);
    }
    this.#flush(fd, messages, false);
  }

  /** One message with all the datagrams of a run, to be cut up by the kernel. */
  #write(messages: MessageBlock, run: number): void {
    const { plan, batch } = this.#buffers;
    const count = plan.count[run]!;
    const segment = plan.segment[run]!;
    messages.begin(plan.first[run]!, count, plan.bytes[run]!, plan.downstream[run]!, count > 1 ? segment : 0);
    for (let i = plan.first[run]!; i !== NONE; i = plan.next[i]!) {
      messages.piece(batch.payloads, batch.at[i]!, batch.size[i]!);
    }
  }

  #address(messages: MessageBlock, downstream: number, raw = false): void {
    const { addresses, rawAddresses, length } = this.#targets!;
    messages.address(raw ? rawAddresses : addresses, downstream * SOCKADDR.room, length[downstream]!);
  }

  /** A message for each datagram, with headers of our own. */
  #sendRaw(family: Family, first: number): void {
    const { plan, messages, batch, sources } = this.#buffers;
    const { addresses } = this.#targets!;
    messages.clear();
    for (let run = first; run !== NONE; run = this.#queues.next[run]!) {
      const downstream = plan.downstream[run]!;
      const target = (downstream * SOCKADDR.room) / 4;
      this.#ends.source = sources.words;
      this.#ends.sourceAt = plan.source[run]! * SOURCE_WORDS;
      this.#ends.target = addresses.u32;
      this.#ends.targetAt = target + SOCKADDR[family].addr / 4;
      this.#ends.targetPort = addresses.u32[target]! >>> 16;
      for (let i = plan.first[run]!; i !== NONE; i = plan.next[i]!) {
        messages.begin(i, 1, batch.size[i]!, downstream, 0);
        messages.from(sources.words, this.#ends.sourceAt + 1, family);
        this.#writeRaw(messages, i);
        this.#address(messages, downstream, true);
      }
    }
    this.#flush(this.#paths.raw(family), messages, false);
  }

  /** Header and payload of one datagram: in one piece where there is headroom, which the kernel takes faster. */
  #writeRaw(messages: MessageBlock, i: number): void {
    const { batch, headers } = this.#buffers;
    const { payloads } = batch;
    const at = batch.at[i]!;
    const size = batch.size[i]!;
    if (batch.hasHeadroom(i)) {
      writeUdpHeader(payloads, at - UDP_HEADER, this.#ends, payloads, at, size);
      messages.piece(payloads, at - UDP_HEADER, UDP_HEADER + size);
      return;
    }
    writeUdpHeader(headers, i * UDP_HEADER, this.#ends, payloads, at, size);
    messages.piece(headers, i * UDP_HEADER, UDP_HEADER);
    messages.piece(payloads, at, size);
  }

  #flush(fd: number, messages: MessageBlock, connected: boolean): void {
    let refused = NONE;
    for (let at = 0; at < messages.count; ) {
      const sent = messages.send(fd, at);
      if (sent > 0) {
        for (const end = at + sent; at < end; at++) this.#book(messages, at);
        continue;
      }
      if (sent === -ECONNREFUSED && refused !== at) {
        // It tells of an earlier datagram, which was booked as sent: that one is lost in its place, and this one goes.
        refused = at;
        this.#refused(messages, at);
        continue;
      }
      this.#failed(fd, messages, at, -sent, connected);
      at++;
    }
  }

  #book(messages: MessageBlock, at: number): void {
    const datagrams = messages.datagrams[at]!;
    if (datagrams <= 0) return;
    this.#state.forwarded(datagrams, messages.bytes[at]!);
    this.#targets!.counts[messages.downstream[at]!]! += datagrams;
  }

  #refused(messages: MessageBlock, at: number): void {
    this.#state.dropped(REASON.ECONNREFUSED, 1);
    messages.bytes[at]! -= this.#buffers.batch.size[messages.first[at]!]!;
    messages.datagrams[at]!--;
  }

  #failed(fd: number, messages: MessageBlock, at: number, errno: number, connected: boolean): void {
    if (messages.segments[at] !== 0 && (errno === EINVAL || errno === EMSGSIZE || errno === EIO)) {
      this.#sendSingly(fd, messages, at, errno, connected);
      return;
    }
    this.#state.dropped(reasonOf(errno), messages.datagrams[at]!);
  }

  /** Larger than the path MTU, or a way out that cannot cut: datagrams of this size go one by one from now on. */
  #sendSingly(fd: number, messages: MessageBlock, at: number, errno: number, connected: boolean): void {
    const { singles, plan, batch } = this.#buffers;
    const downstream = messages.downstream[at]!;
    const first = messages.first[at]!;
    this.#targets!.gather[downstream] = errno === EIO ? 0 : batch.size[first]! - 1;
    singles.clear();
    // One of them may stand for a datagram that was refused before, and is booked already.
    let booked = messages.datagrams[at]!;
    for (let i = first; i !== NONE; i = plan.next[i]!) {
      const length = batch.size[i]!;
      const counts = booked > 0 ? 1 : 0;
      booked -= counts;
      singles.begin(i, counts, counts === 0 ? 0 : length, downstream, 0);
      singles.piece(batch.payloads, batch.at[i]!, length);
      if (!connected) this.#address(singles, downstream);
    }
    this.#flush(fd, singles, connected);
  }
}
