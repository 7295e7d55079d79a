/** The lease: without an agent the program serves on until it runs out. Only a program knows jiffies, so one renews it. */
import { check } from '../../ffi/errno.ts';
import { ticksOf } from '../../kernel/ticks.ts';
import { encodeU32, LAYOUT } from './abi.ts';
import type { Bpf } from './bpf.ts';
import type { BpfObject } from './object.ts';

/** A frame of which the program reads nothing; the kernel wants a header of Ethernet and one of IPv4. */
const FRAME = new Uint8Array(64);

export class Lease {
  readonly #object: Pick<BpfObject, 'renewProgram'>;
  readonly #bpf: Bpf;

  /** Runs from now on for so many seconds, 0 for ever; one that has run out is renewed. Throws SystemError. */
  constructor({ lease, renewProgram }: Pick<BpfObject, 'lease' | 'renewProgram'>, seconds: number, bpf: Bpf) {
    this.#object = { renewProgram };
    this.#bpf = bpf;
    const bytes = new Uint8Array(LAYOUT.lease.size);
    lease.get(encodeU32(0), bytes);
    new DataView(bytes.buffer).setBigUint64(LAYOUT.lease.term, BigInt(seconds === 0 ? 0 : ticksOf(seconds)), true);
    lease.put(encodeU32(0), bytes);
    this.renew();
  }

  /** Throws SystemError. */
  renew(): void {
    check('BPF_PROG_TEST_RUN of udp_fanout_renew', this.#bpf.programRun(this.#object.renewProgram, FRAME));
  }
}
