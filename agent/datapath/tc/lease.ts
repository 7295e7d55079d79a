/** The lease: without an agent the program serves on until it runs out. Only a program knows jiffies, so one renews it. */
import { check } from '../../ffi/errno.ts';
import { ticksOf } from '../../kernel/ticks.ts';
import { encodeU32, LAYOUT } from './abi.ts';
import type { Bpf } from './bpf.ts';
import type { BpfObject } from './object.ts';

/** A frame of which the program reads nothing; the kernel wants a header of Ethernet and one of IPv4. */
const FRAME = new Uint8Array(64);

type Leased = Pick<BpfObject, 'lease' | 'renewProgram'>;

export class Lease {
  readonly #object: Leased;
  readonly #seconds: () => number;
  readonly #bpf: Bpf;
  /** In seconds, as the map has it. */
  #term: number | undefined;

  /** Runs from now on for so many seconds, 0 for ever; one that has run out is renewed. Throws SystemError. */
  constructor(object: Leased, seconds: () => number, bpf: Bpf) {
    this.#object = object;
    this.#seconds = seconds;
    this.#bpf = bpf;
    this.renew();
  }

  /** Throws SystemError. */
  renew(): void {
    const seconds = this.#seconds();
    if (seconds !== this.#term) this.#setTerm(seconds);
    check(
      'BPF_PROG_TEST_RUN of udp_fanout_renew',
      this.#bpf.programRun(this.#object.renewProgram, { data_in: FRAME }).result,
    );
  }

  #setTerm(seconds: number): void {
    const { lease } = this.#object;
    const bytes = new Uint8Array(LAYOUT.lease.size);
    lease.get(encodeU32(0), bytes);
    new DataView(bytes.buffer).setBigUint64(LAYOUT.lease.term, BigInt(seconds === 0 ? 0 : ticksOf(seconds)), true);
    lease.put(encodeU32(0), bytes);
    this.#term = seconds;
  }
}
