/** Sockets that are opened and prepared, or closed again. */
import { check } from './errno.ts';
import { libc, SOCK_CLOEXEC } from './libc.ts';

/** What `prepare` makes of a new socket, socket(2); where that throws, the socket is closed. Throws SystemError. */
export function openSocket<T>(domain: number, type: number, protocol: number, prepare: (fd: number) => T): T {
  const fd = check('socket', libc.socket(domain, type | SOCK_CLOEXEC, protocol));
  try {
    return prepare(fd);
  } catch (error) {
    libc.close(fd);
    throw error;
  }
}
