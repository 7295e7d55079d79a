/** The load generator: 64-byte frames into a veth, sent, received and forwarded on one CPU. */
import { check } from '../../agent/ffi/errno.ts';
import * as libbpf from '../../agent/ffi/libbpf.ts';
import { interfaceIndex } from '../../lab/libc.ts';
import type { Namespace } from '../../lab/namespace.ts';
import { FRAME_BYTES, sendLiveFrames } from '../../lab/test-run.ts';
import { measured } from './cpu.ts';
import { loadProgram } from './program.ts';

/** Frames of one system call, after which the time is looked at. */
const CHUNK = 250_000;
/** The program's `job`. */
const JOB = { ifindex: FRAME_BYTES, sent: FRAME_BYTES + 8, size: FRAME_BYTES + 16 } as const;
const FIRST = new Uint8Array(4);

export interface Load {
  readonly sent: number;
  readonly seconds: number;
}

export class Generator {
  readonly #program: number;
  readonly #job: number;
  readonly #namespace: Namespace;

  /** For an interface whose veth peer has GRO on, since one without drops such frames; `directory` is for the object. */
  constructor(namespace: Namespace, name: string, frame: Buffer, directory: string) {
    const program = loadProgram('generator', directory);
    this.#program = program.fd;
    this.#job = program.map('.bss');
    this.#namespace = namespace;
    const job = Buffer.alloc(JOB.size);
    job.set(frame);
    job.writeUInt32LE(
      namespace.inside(() => interfaceIndex(name)),
      JOB.ifindex,
    );
    check('job of the generator', libbpf.mapUpdate(this.#job, FIRST, job));
  }

  /** Sends so many frames, or as many as go in about `limit` seconds; blocks until they are sent. */
  send(frames: number, limit: number): Load {
    return this.#namespace.inside(() => measured(() => this.#send(frames, limit)));
  }

  #send(frames: number, limit: number): Load {
    const before = this.#sent();
    let sent = 0;
    let seconds = 0;
    while (sent < frames && seconds < limit) {
      const count = Math.min(CHUNK, frames - sent);
      const start = performance.now();
      const ns = sendLiveFrames(this.#program, count);
      seconds += ns === undefined ? (performance.now() - start) / 1000 : (ns * count) / 1e9;
      sent = this.#sent() - before;
    }
    return { sent, seconds };
  }

  #sent(): number {
    const job = Buffer.alloc(JOB.size);
    check('job of the generator', libbpf.mapLookup(this.#job, FIRST, job));
    return Number(job.readBigUInt64LE(JOB.sent));
  }
}
