/** Standard output and error: all of it is written before the process ends, and whoever does not read it ends nothing. */
import { setTimer } from './clock.ts';

const STREAMS = [process.stdout, process.stderr];

/** What a log may have waiting for a reader that is slow, in bytes: what comes beyond it is lost. */
const BACKLOG = 1 << 20;

/** A reader that is gone (EPIPE) is no error of ours: what it would have read is given up. */
export function outliveReaders(): void {
  for (const stream of STREAMS) stream.on('error', () => {});
}

/** Writes a line to standard output at once, or keeps it for a reader that is slow: forwarding must not wait for it. */
export function writeLine(line: string): void {
  if (process.stdout.writableLength < BACKLOG) process.stdout.write(line);
}

/** Resolves when all that was written has been taken, or its reader is gone; after `limit` ms in any case. */
export async function written(limit = Number.POSITIVE_INFINITY): Promise<void> {
  const taken = STREAMS.map((stream) => new Promise<void>((resolve) => stream.write('', () => resolve())));
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const cancel = Number.isFinite(limit) ? setTimer(limit, resolve) : () => {};
  await Promise.race([Promise.all(taken), late]);
  cancel();
}
