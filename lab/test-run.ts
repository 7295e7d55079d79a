/**
 * BPF_PROG_TEST_RUN (bpf(2), Documentation/bpf/bpf_prog_run.rst): a loaded program run on a frame, without a wire. Routes,
 * neighbours and sysctls are those of the calling thread's network namespace; a redirect is decided but not carried out.
 */
import { constants } from 'node:os';
import { check } from '../agent/ffi/errno.ts';
import { programRun } from '../agent/ffi/libbpf.ts';

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

const out = Buffer.alloc(ROOM);
const context = Buffer.alloc(SK_BUFF.size);

/** Runs a tc program `repeat` times on one buffer, each time on what the time before has left. Throws SystemError. */
export function testRun(programFd: number, frame: Uint8Array, ingress: Ingress, repeat = 1): TestRun {
  context.writeUInt32LE(ingress.ifindex, SK_BUFF.ifindex);
  context.writeUInt32LE(ingress.gsoSegments ?? 0, SK_BUFF.gso_segs);
  context.writeUInt32LE(ingress.gsoSize ?? 0, SK_BUFF.gso_size);
  const input = { data_in: frame, data_out: out, data_size_out: out.length, repeat };
  const once = () => programRun(programFd, { ...input, ctx_in: context, ctx_size_in: context.length });
  let ran = once();
  for (let tries = 1; ran.result === -EINTR && tries < TRIES; tries++) ran = once();
  check(`BPF_PROG_TEST_RUN of ${frame.length} bytes`, ran.result);
  return { action: ran.retval | 0, frame: Buffer.from(out.subarray(0, ran.data_size_out)), ns: ran.duration };
}

/**
 * Sends `count` frames by what the XDP program says, on the thread's CPU and in its namespace. The mean time of a frame
 * by the kernel's clock, which leaves out the tens of milliseconds of setting up and clearing away; undefined if
 * something that the kernel had to tell this thread ended it early.
 */
export function sendLiveFrames(programFd: number, count: number): number | undefined {
  const blank = Buffer.alloc(FRAME_BYTES);
  const flags = BPF_F_TEST_XDP_LIVE_FRAMES;
  const { result, duration } = programRun(programFd, { data_in: blank, flags, repeat: count });
  if (result === -EINTR) return undefined;
  check('BPF_PROG_TEST_RUN of live frames', result);
  return duration;
}
