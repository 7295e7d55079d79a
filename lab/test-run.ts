/**
 * BPF_PROG_TEST_RUN (bpf(2), Documentation/bpf/bpf_prog_run.rst): a loaded program run on a frame, without a wire. Routes,
 * neighbours and sysctls are those of the calling thread's network namespace; a redirect is decided but not carried out.
 */
import { constants } from 'node:os';
import koffi from 'koffi';
import { check } from '../agent/ffi/errno.ts';

/** Where and how the frame comes in; all of it is struct __sk_buff, of which the kernel takes these fields only. */
export interface Ingress {
  /** The interface, whose MAC also decides whether the frame counts as this host's. */
  readonly ifindex: number;
  /** Bytes of payload in each segment of a packet that holds several datagrams. */
  readonly gsoSize?: number;
  readonly gsoSegments?: number;
}

export interface TestRun {
  /** What the last run returned: a TC_ACT code, as the signed number that it is. */
  readonly action: number;
  /** The frame afterwards. */
  readonly frame: Buffer;
  /** Mean time of a run. */
  readonly ns: number;
}

/** What a tc program answers (linux/pkt_cls.h). */
export const ACTION = { UNSPEC: -1, SHOT: 2, REDIRECT: 7 } as const;
/** The least that Ethernet has. */
export const FRAME_BYTES = 64;

/** The kernel takes frames of at most a page, less some room of its own, and none shorter than its IP header. */
const ROOM = 4096;
/** struct __sk_buff of linux/bpf.h: its size, and the offsets of what may be set. */
const SK_BUFF = { size: 192, ifindex: 40, gso_segs: 164, gso_size: 176 } as const;
/** uapi/linux/bpf.h: the frames are sent for real by what the XDP program answers. */
const BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1;
/** Whatever the kernel has to tell the thread interrupts repeated runs, and is told when the call has returned. */
const TRIES = 10;
const { EINTR } = constants.errno;

let table: ReturnType<typeof bind> | undefined;
const out = Buffer.alloc(ROOM);
const context = Buffer.alloc(SK_BUFF.size);

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
  };
}

/** Runs a tc program `repeat` times on one buffer, each time on what the time before has left. Throws SystemError. */
export function testRun(programFd: number, frame: Uint8Array, ingress: Ingress, repeat = 1): TestRun {
  context.writeUInt32LE(ingress.ifindex, SK_BUFF.ifindex);
  context.writeUInt32LE(ingress.gsoSegments ?? 0, SK_BUFF.gso_segs);
  context.writeUInt32LE(ingress.gsoSize ?? 0, SK_BUFF.gso_size);
  const input = { ...dataIn(frame), data_out: out, data_size_out: out.length, ctx_in: context, repeat };
  const once = () => run(programFd, { ...input, ctx_size_in: context.length });
  let { result, output } = once();
  for (let tries = 1; result === -EINTR && tries < TRIES; tries++) ({ result, output } = once());
  check(`BPF_PROG_TEST_RUN of ${frame.length} bytes`, result);
  return { action: output.retval | 0, frame: Buffer.from(out.subarray(0, output.data_size_out)), ns: output.duration };
}

/**
 * Sends `count` frames by what the XDP program says, on the thread's CPU and in its namespace. The mean time of a frame
 * by the kernel's clock, which leaves out the tens of milliseconds of setting up and clearing away; undefined if
 * something that the kernel had to tell this thread ended it early.
 */
export function sendLiveFrames(programFd: number, count: number): number | undefined {
  const blank = Buffer.alloc(FRAME_BYTES);
  const flags = BPF_F_TEST_XDP_LIVE_FRAMES;
  const { result, output } = run(programFd, { ...dataIn(blank), flags, repeat: count });
  if (result === -EINTR) return undefined;
  check('BPF_PROG_TEST_RUN of live frames', result);
  return output.duration;
}

function dataIn(frame: Uint8Array) {
  return { data_in: frame, data_size_in: frame.length };
}

function run(programFd: number, options: object) {
  table ??= bind();
  const output = { sz: table.size, retval: 0, duration: 0, data_size_out: 0, ...options };
  return { result: table.testRun(programFd, output) as number, output };
}
