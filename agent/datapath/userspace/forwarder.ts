/**
 * From a socket to the downstreams: takes one batch of datagrams, walks the slots, plans what leaves together, sends.
 * Per datagram a few writes into typed arrays: nothing is allocated, nothing logged, no BigInt touched.
 */
import { constants } from 'node:os';
import { SystemError } from '../../ffi/errno.ts';
import type { MSG_DONTWAIT } from '../../ffi/mmsg.ts';
import { type NatSockets, openNatSockets } from './nat.ts';
import { Outbox } from './outbox.ts';
import { REASON } from './reasons.ts';
import type { Scratch } from './scratch.ts';
import { SlotWalk, type TableImage } from './table.ts';
import type { Tally } from './tally.ts';
import { Targets } from './targets.ts';
import { type Preserve, type RawSockets, Ways } from './ways.ts';

const { EAGAIN, EINTR } = constants.errno;

export interface ForwarderOptions {
  readonly fd: number;
  /** Its place among the listener's forwarders. */
  readonly index: number;
  readonly scratch: Scratch;
  readonly tally: Tally;
  /** Larger datagrams are dropped. */
  readonly maxPacketSize: number;
  /** Absent: nat. */
  readonly preserve: Preserve | undefined;
  /** Whether the kernel knows UDP_SEGMENT. */
  readonly gathers: boolean;
  /** Sockets of this host's own and raw ones; by default opened as they are needed. */
  readonly nat?: NatSockets;
  readonly raw?: RawSockets;
}

export class Forwarder {
  // Fields of its own, not the options: V8 optimises for the shape of an object, which differs by who made the options.
  readonly #fd: number;
  readonly #index: number;
  readonly #scratch: Scratch;
  readonly #tally: Tally;
  readonly #maxPacketSize: number;
  readonly #gathers: boolean;
  readonly #ways: Ways;
  readonly #outbox: Outbox;
  readonly #nat: NatSockets;
  #targets: Targets | undefined;
  #walks: Readonly<Record<4 | 6, SlotWalk>> | undefined;
  /** By datagram: 4 or 6, or 0 for one that is not forwarded. */
  readonly #families: Uint8Array;

  /** Throws SystemError. */
  constructor(options: ForwarderOptions) {
    this.#fd = options.fd;
    this.#index = options.index;
    this.#scratch = options.scratch;
    this.#tally = options.tally;
    this.#maxPacketSize = options.maxPacketSize;
    this.#gathers = options.gathers;
    this.#nat = options.nat ?? openNatSockets();
    this.#ways = new Ways(options.scratch.batch.messages, options.preserve, options.raw);
    this.#outbox = new Outbox(options.scratch, this.#ways, options.tally);
    this.#families = new Uint8Array(options.scratch.batch.datagrams);
  }

  /** Goes by another table from the next batch on. */
  adopt(image: TableImage): void {
    this.#targets = new Targets(image, this.#index, this.#nat, this.#gathers);
    this.#walks = { 4: new SlotWalk(image, 4), 6: new SlotWalk(image, 6) };
    this.#ways.setHost(image.hostAddresses);
    this.#outbox.setTargets(this.#targets);
  }

  /** Waits for a batch, or with MSG_DONTWAIT does not; how many messages are in the scratch. Throws SystemError. */
  receive(flags: 0 | typeof MSG_DONTWAIT): number {
    const count = this.#scratch.batch.receive(this.#fd, flags);
    if (count >= 0) return count;
    if (count === -EAGAIN || count === -EINTR) return 0;
    throw new SystemError('recvmmsg', -count);
  }

  /** Sends the messages in the scratch on their way and books every datagram of them. */
  forward(messages: number): void {
    const { batch } = this.#scratch;
    for (let next = 0; next < messages; ) {
      next = batch.unpack(next, messages);
      this.#forwardUnpacked();
    }
  }

  close(): void {
    this.#nat.close();
    this.#ways.close();
  }

  #forwardUnpacked(): void {
    const { plan, sources } = this.#scratch;
    this.#sort();
    plan.begin();
    sources.begin();
    this.#plan(4);
    this.#plan(6);
    if (plan.runs === 0) return;
    if (this.#ways.preserves) this.#ways.choose(plan, sources, performance.now());
    this.#outbox.send();
  }

  /** Books what came, and which family each datagram is of; those that cannot go on are none. */
  #sort(): void {
    const { batch } = this.#scratch;
    const maxPacketSize = this.#maxPacketSize;
    let bytes = 0;
    for (let i = 0; i < batch.count; i++) {
      const size = batch.size[i]!;
      bytes += size;
      this.#families[i] = batch.family(batch.message[i]!);
      if (size <= maxPacketSize) continue;
      this.#families[i] = 0;
      this.#tally.dropped(REASON.truncated, 1);
    }
    this.#tally.received(batch.count, bytes);
  }

  /** Gives each datagram of a family the next slot, in the order in which they came. */
  #plan(family: 4 | 6): void {
    const { batch, plan, sources } = this.#scratch;
    let wanted = 0;
    for (let i = 0; i < batch.count; i++) if (this.#families[i] === family) wanted++;
    if (wanted === 0) return;
    const walk = this.#walks![family];
    const { slots } = walk;
    if (slots.length === 0) {
      this.#tally.dropped(REASON.no_downstream, wanted);
      return;
    }
    const { gather } = this.#targets!;
    const apart = this.#ways.preserves;
    let slot = walk.take(wanted);
    let message = -1;
    let source = 0;
    for (let i = 0; i < batch.count; i++) {
      if (this.#families[i] !== family) continue;
      if (apart && batch.message[i] !== message) {
        message = batch.message[i]!;
        source = sources.of(batch, message);
      }
      const downstream = slots[slot]!;
      if (++slot === slots.length) slot = 0;
      plan.add(i, batch.size[i]!, source, downstream, gather[downstream]!);
    }
  }
}
