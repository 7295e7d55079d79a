/**
 * From a socket to the downstreams: takes one batch of datagrams, walks the slots, plans what leaves together, sends.
 * Per datagram a few writes into typed arrays: nothing is allocated, nothing logged, no BigInt touched.
 */

import { constants } from 'node:os';
import type { Family } from '../../../address.ts';
import { SystemError } from '../../../ffi/errno.ts';
import type { MSG_DONTWAIT } from '../../../ffi/mmsg.ts';
import { REASON } from '../reasons.ts';
import { SlotWalk, type TableSnapshot } from '../snapshot.ts';
import type { Descriptors } from '../sockets/descriptors.ts';
import { MAX_CONNECTED, NatSockets } from '../sockets/nat.ts';
import { SENDERS, type Senders } from '../sockets/open.ts';
import type { ForwarderState } from '../workers/state.ts';
import type { BatchBuffers } from './batch-buffers.ts';
import { BatchSender } from './batch-sender.ts';
import { SOURCE_WORDS } from './batch-sources.ts';
import { type Preserve, SourcePaths } from './source-paths.ts';
import { Targets } from './targets.ts';

const { EAGAIN, EINTR } = constants.errno;

/** Most descriptors that a forwarder has: its socket; for each family a shared and a raw one; downstreams' and clients'. */
export function maxDescriptors(preserve: Preserve | undefined): number {
  return 1 + 2 * 2 + MAX_CONNECTED + (preserve?.maxSources ?? 0);
}

export interface ForwarderOptions {
  readonly fd: number;
  /** Its place among the listener's forwarders. */
  readonly index: number;
  readonly buffers: BatchBuffers;
  /** Most messages of a receive; the buffers may have room for more. */
  readonly batchSize: number;
  readonly state: ForwarderState;
  /** Larger datagrams are dropped. */
  readonly maxPacketSize: number;
  /** Absent: nat. */
  readonly preserve: Preserve | undefined;
  /** Whether the kernel knows UDP_SEGMENT. */
  readonly gathers: boolean;
  /** Of whatever it opens; whose they are closes them. */
  readonly descriptors: Descriptors;
  readonly senders?: Senders;
  /** By interface, datagrams that came; of a socket that tells. */
  readonly arrivals?: Map<number, number> | undefined;
}

export class Forwarder {
  // Fields of its own, not the options: V8 optimises for the shape of an object, which differs by who made the options.
  readonly #fd: number;
  readonly #index: number;
  readonly #buffers: BatchBuffers;
  readonly #batchSize: number;
  readonly #state: ForwarderState;
  readonly #maxPacketSize: number;
  readonly #gathers: boolean;
  readonly #paths: SourcePaths;
  readonly #sender: BatchSender;
  readonly #nat: NatSockets;
  readonly #arrivals: Map<number, number> | undefined;
  #elsewhere: ReadonlySet<number> | undefined;
  #targets: Targets | undefined;
  /** Whose turn it is in the place of a sender. */
  #turn = 0;
  #walks: Readonly<Record<Family, SlotWalk>> | undefined;
  /** Messages in the buffers, and the first that is not booked. */
  #messages = 0;
  #next = 0;
  /** By datagram: 4 or 6, or 0 for one that is not forwarded. */
  readonly #families: Uint8Array;

  constructor(options: ForwarderOptions) {
    this.#fd = options.fd;
    this.#index = options.index;
    this.#buffers = options.buffers;
    this.#batchSize = options.batchSize;
    this.#state = options.state;
    this.#maxPacketSize = options.maxPacketSize;
    this.#gathers = options.gathers;
    this.#arrivals = options.arrivals;
    const { buffers, preserve, descriptors, senders = SENDERS } = options;
    this.#nat = new NatSockets(descriptors, senders.nat);
    this.#paths = new SourcePaths(buffers.batch.messages, preserve, descriptors, senders);
    this.#sender = new BatchSender(options.buffers, this.#paths, options.state);
    this.#families = new Uint8Array(options.buffers.batch.datagrams);
  }

  /** Goes by another table from the next batch on. */
  adopt(snapshot: TableSnapshot): void {
    this.#targets = new Targets(snapshot, this.#index, this.#nat, this.#gathers);
    this.#walks = { 4: new SlotWalk(snapshot, 4), 6: new SlotWalk(snapshot, 6) };
    this.#paths.setHost(snapshot.hostAddresses);
    this.#elsewhere = snapshot.elsewhere?.length ? new Set(snapshot.elsewhere) : undefined;
    this.#sender.setTargets(this.#targets);
  }

  /** Waits for a batch, or with MSG_DONTWAIT does not; how many messages are in the buffers. Throws SystemError. */
  receive(flags: 0 | typeof MSG_DONTWAIT): number {
    this.#state.take();
    const count = this.#buffers.batch.receive(this.#fd, flags, this.#batchSize);
    this.begin(Math.max(0, count));
    if (count > 0) return count;
    this.#state.taken();
    if (count === -EAGAIN || count === -EINTR || count === 0) return 0;
    throw new SystemError('recvmmsg', -count);
  }

  /** So many messages are in the buffers, of which nothing is booked. */
  begin(messages: number): void {
    this.#messages = messages;
    this.#next = 0;
  }

  /** Sends the messages in the buffers on their way and books every datagram of them. */
  forward(): void {
    while (this.#next < this.#messages) {
      this.#unpack();
      this.#forwardUnpacked();
    }
  }

  /** Books as received what went wrong before it was looked at. */
  book(): void {
    while (this.#next < this.#messages) this.#unpack();
  }

  #unpack(): void {
    const { batch } = this.#buffers;
    batch.arrivals = this.#arrivals;
    batch.elsewhere = this.#elsewhere;
    const next = batch.unpack(this.#next, this.#messages);
    this.#sort();
    this.#next = next;
    if (next >= this.#messages) this.#state.taken();
  }

  #forwardUnpacked(): void {
    const { plan, sources } = this.#buffers;
    plan.begin();
    sources.begin();
    this.#plan(4);
    this.#plan(6);
    if (plan.runs === 0) return;
    if (this.#paths.preserves) this.#paths.choose(plan, sources, performance.now());
    this.#sender.send();
  }

  /** Books what came, and which family each datagram is of; those that cannot go on are none. */
  #sort(): void {
    const { batch } = this.#buffers;
    const maxPacketSize = this.#maxPacketSize;
    let bytes = 0;
    let truncated = 0;
    for (let i = 0; i < batch.count; i++) {
      const size = batch.size[i]!;
      bytes += size;
      this.#families[i] = size <= maxPacketSize ? batch.family(batch.message[i]!) : 0;
      if (size > maxPacketSize) truncated++;
    }
    this.#state.received(batch.count, bytes);
    if (truncated > 0) this.#state.dropped(REASON.truncated, truncated);
  }

  /**
   * The downstream, or another one in turn where the sender is that one or its node, whose stack would take its own address
   * for a forgery. Where there is no other, the datagram bears this host's address.
   */
  #other(family: Family, downstream: number, sender: string, source: number): number {
    if (!this.#targets!.isOwnSource(downstream, sender)) return downstream;
    const other = this.#targets!.another(family, this.#turn++, sender);
    if (other === undefined) this.#paths.sendFromHere(source);
    return other ?? downstream;
  }

  /** Gives each datagram of a family the next slot, in the order in which they came. */
  #plan(family: Family): void {
    const { batch, plan, sources } = this.#buffers;
    let wanted = 0;
    for (let i = 0; i < batch.count; i++) if (this.#families[i] === family) wanted++;
    if (wanted === 0) return;
    const walk = this.#walks![family];
    const { slots } = walk;
    if (slots.length === 0) {
      this.#state.dropped(REASON.no_downstream, wanted);
      return;
    }
    const targets = this.#targets!;
    const { gather } = targets;
    const apart = this.#paths.preserves;
    let slot = walk.take(wanted);
    let message = -1;
    let source = 0;
    let sender: string | undefined;
    for (let i = 0; i < batch.count; i++) {
      if (this.#families[i] !== family) continue;
      if (apart && batch.message[i] !== message) {
        message = batch.message[i]!;
        source = sources.of(batch, message);
        sender = targets.suspect(sources.words, source * SOURCE_WORDS);
      }
      const next = slots[slot]!;
      const downstream = sender === undefined ? next : this.#other(family, next, sender, source);
      if (++slot === slots.length) slot = 0;
      plan.add(i, batch.size[i]!, source, downstream, gather[downstream]!);
    }
  }
}
