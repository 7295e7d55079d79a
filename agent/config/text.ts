/** The text of a config file, or why it is none. */
import { closeSync, openSync, readSync } from 'node:fs';
import type { Diagnostic } from './position.ts';

/**
 * Most bytes of a file: what a ConfigMap holds (1 MiB), 31,000 static downstreams or 7 full lists of them. All that the
 * limits of the keys allow, 256 lists of 4096, would be 37 MB, half a minute and 2.7 GB to read, and more to run.
 */
const MAX_BYTES = 1 << 20;

const CHUNK = 64 << 10;

export function readText(file: string): string | Diagnostic {
  const start = { line: 1, col: 1 };
  let bytes: Buffer;
  try {
    bytes = readUpTo(file, MAX_BYTES + 1);
  } catch (cause) {
    return { ...start, message: unreadable(cause) };
  }
  if (bytes.length > MAX_BYTES)
    return { ...start, message: `the file is larger than ${MAX_BYTES} bytes (1 MiB), ${WANT_LESS}` };
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    // Lossless up to the first bad byte, which the lossy decoder marks.
    const before = new TextDecoder().decode(bytes).split('\uFFFD', 1).join().split('\n');
    const col = [...(before.at(-1) ?? '')].length + 1;
    return { line: before.length, col, message: 'not UTF-8 text, want YAML in UTF-8' };
  }
}

/** What to do where a config is too much to be read. */
export const WANT_LESS = 'want fewer static downstreams; those of a Service (kubernetes) need no room in the file';

/** Never more, also of what has no end or no size, such as a pipe. */
function readUpTo(file: string, most: number): Buffer {
  const fd = openSync(file, 'r');
  try {
    const chunks: Buffer[] = [];
    for (let size = 0; size < most; ) {
      const chunk = Buffer.allocUnsafe(CHUNK);
      const count = readSync(fd, chunk);
      if (count === 0) break;
      chunks.push(chunk.subarray(0, count));
      size += count;
    }
    return Buffer.concat(chunks);
  } finally {
    closeSync(fd);
  }
}

function unreadable(cause: unknown): string {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause);
  switch (code) {
    case 'ENOENT':
      return 'no such file, want the path of a YAML file';
    case 'EISDIR':
      return 'is a directory, want a YAML file';
    case 'EACCES':
    case 'EPERM':
      return 'permission denied, want a file that this user may read';
    default:
      return `cannot be read (${code}), want a readable YAML file`;
  }
}
