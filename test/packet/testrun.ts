/**
 * BPF_PROG_TEST_RUN: a loaded program run on one frame, without a wire. Routes, neighbours and sysctls are those of the
 * calling thread's network namespace; a redirect is decided but not carried out.
 */
import koffi from 'koffi';
import { check } from '../../agent/ffi/errno.ts';

/** Where and how the frame comes in; all of it is struct __sk_buff, of which the kernel takes these fields only. */
export interface Ingress {
  /** The interface, whose MAC also decides whether the frame counts as this host's. */
  readonly ifindex: number;
  /** Bytes of payload in each segment of a packet that holds several datagrams. */
  readonly gsoSize?: number;
  readonly gsoSegments?: number;
}

export interface TestRun {
  /** What the program returned: a TC_ACT code, as the signed number that it is. */
  readonly action: number;
  /** The frame afterwards. */
  readonly frame: Buffer;
  /** Mean over the repetitions. */
  readonly ns: number;
}

/** What the program answered (linux/pkt_cls.h). */
export const ACTION = { UNSPEC: -1, SHOT: 2, REDIRECT: 7 } as const;

/** The kernel takes frames of at most a page, less some room of its own, and none shorter than its IP header. */
const ROOM = 4096;

/** struct __sk_buff of linux/bpf.h: its size, and the offsets of what may be set. */
const SK_BUFF = { size: 192, ifindex: 40, gso_segs: 164, gso_size: 176 } as const;

const library = koffi.load('libbpf.so.1');
const options = koffi.struct({
  sz: 'size_t',
  data_in: 'const void *',
  data_out: 'void *',
  data_size_in: 'uint32_t',
  data_size_out: 'uint32_t',
  ctx_in: 'const void *',
  ctx_out: 'void *',
  ctx_size_in: 'uint32_t',
  ctx_size_out: 'uint32_t',
  retval: 'uint32_t',
  repeat: 'int',
  duration: 'uint32_t',
  flags: 'uint32_t',
  cpu: 'uint32_t',
  batch_size: 'uint32_t',
});
const testRunOptions = library.func('bpf_prog_test_run_opts', 'int', ['int', koffi.inout(koffi.pointer(options))]);

const out = Buffer.alloc(ROOM);
const context = Buffer.alloc(SK_BUFF.size);

/** Runs the program `repeat` times on one buffer, each time on what the time before has left. Throws SystemError. */
export function testRun(programFd: number, frame: Uint8Array, ingress: Ingress, repeat = 1): TestRun {
  context.writeUInt32LE(ingress.ifindex, SK_BUFF.ifindex);
  context.writeUInt32LE(ingress.gsoSegments ?? 0, SK_BUFF.gso_segs);
  context.writeUInt32LE(ingress.gsoSize ?? 0, SK_BUFF.gso_size);
  const run = {
    sz: koffi.sizeof(options),
    data_in: frame,
    data_out: out,
    data_size_in: frame.length,
    data_size_out: out.length,
    ctx_in: context,
    ctx_size_in: context.length,
    retval: 0,
    repeat,
    duration: 0,
  };
  check(`bpf_prog_test_run of ${frame.length} bytes`, testRunOptions(programFd, run));
  return { action: run.retval | 0, frame: Buffer.from(out.subarray(0, run.data_size_out)), ns: run.duration };
}

/**
 * Nanoseconds that the program takes for such a frame: the median of `rounds` means over `repeat` runs. A frame that
 * the program rewrites has to match again afterwards, so its downstream must be its listener's own address; since each
 * run takes one hop, `repeat` must then stay below its TTL.
 */
export function measure(
  programFd: number,
  frame: Uint8Array,
  ingress: Ingress,
  { repeat = 200, rounds = 501 }: { readonly repeat?: number; readonly rounds?: number } = {},
): number {
  const means = Array.from({ length: rounds }, () => testRun(programFd, frame, ingress, repeat).ns);
  return means.sort((a, b) => a - b)[rounds >> 1]!;
}
