/** System call failures: one class, one check. */
import { constants } from 'node:os';

/** Where two names share a number (EAGAIN, EWOULDBLOCK) the first is the one that manual pages use. */
const NAMES = new Map(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, number]) => [number, name]),
);

/** A failed system or libbpf call: which one, and its errno as a number and a name. */
export class SystemError extends Error {
  readonly operation: string;
  readonly errno: number;
  readonly code: string;

  constructor(operation: string, errno: number, detail = '') {
    const code = NAMES.get(errno) ?? `errno ${errno}`;
    super(`${operation}: ${code}${detail === '' ? '' : `: ${detail}`}`);
    this.name = 'SystemError';
    this.operation = operation;
    this.errno = errno;
    this.code = code;
  }
}

/** Passes a result of 0 or more through; a negative one is thrown as the errno it stands for (libbpf's convention). */
export function check(operation: string, result: number, detail = ''): number {
  if (result < 0) throw new SystemError(operation, -result, detail);
  return result;
}
