/** BPF_PROG_TEST_RUN (bpf(2), Documentation/bpf/bpf_prog_run.rst): a program run on a frame without a network. */
import { constants } from 'node:os';
import koffi from 'koffi';
import { check } from '../../agent/ffi/errno.ts';

/** uapi/linux/bpf.h: the frames are sent for real by what the XDP program answers. */
const BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1;
/** Bytes of struct __sk_buff, and where its ifindex is (uapi/linux/bpf.h). */
const SK_BUFF = { size: 192, ifindex: 40 };

/** What a tc program answers (linux/pkt_cls.h). */
export const ACTION = { UNSPEC: -1, REDIRECT: 7 } as const;
/** The least that Ethernet has. */
export const FRAME_BYTES = 64;
/** Whatever the kernel has to tell the thread interrupts a run, and is told when the call has returned. */
const TRIES = 10;
const { EINTR } = constants.errno;

export interface TestRun {
  /** What the last run returned. */
  readonly action: number;
  /** Mean time of a run. */
  readonly ns: number;
}

let table: ReturnType<typeof bind> | undefined;
const libbpf = () => {
  table ??= bind();
  return table;
};

function bind() {
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
  return {
    size: koffi.sizeof(options),
    testRun: library.func('bpf_prog_test_run_opts', 'int', ['int', koffi.inout(koffi.pointer(options))]),
    fdById: library.func('int bpf_prog_get_fd_by_id(uint32_t id)'),
  };
}

/** Runs a tc program `repeat` times on one frame, as if it came in through `ifindex` of the thread's namespace. */
export function runTc(fd: number, frame: Buffer, ifindex: number, repeat: number): TestRun {
  const context = Buffer.alloc(SK_BUFF.size);
  context.writeUInt32LE(ifindex, SK_BUFF.ifindex);
  const input = { data_in: frame, data_size_in: frame.length, ctx_in: context, ctx_size_in: context.length };
  let { result, output } = run(fd, { ...input, repeat });
  for (let tries = 1; result === -EINTR && tries < TRIES; tries++) ({ result, output } = run(fd, { ...input, repeat }));
  check('BPF_PROG_TEST_RUN', result);
  return { action: (output.retval as number) | 0, ns: output.duration as number };
}

/**
 * Sends `count` frames by what the XDP program says, on the thread's CPU and in its namespace. The mean time of a frame
 * by the kernel's clock, which leaves out the tens of milliseconds of setting up and clearing away; undefined if
 * something that the kernel had to tell this thread ended it early.
 */
export function sendLiveFrames(fd: number, count: number): number | undefined {
  const blank = Buffer.alloc(FRAME_BYTES);
  const input = { data_in: blank, data_size_in: blank.length };
  const { result, output } = run(fd, { ...input, flags: BPF_F_TEST_XDP_LIVE_FRAMES, repeat: count });
  if (result === -EINTR) return undefined;
  check('BPF_PROG_TEST_RUN of live frames', result);
  return output.duration as number;
}

/** A descriptor of a program that somebody else has loaded. */
export function programById(id: number): number {
  return check('bpf_prog_get_fd_by_id', libbpf().fdById(id));
}

function run(fd: number, options: Record<string, unknown>) {
  const output: Record<string, unknown> = { sz: libbpf().size, ...options };
  return { result: libbpf().testRun(fd, output) as number, output };
}
