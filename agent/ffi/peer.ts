/** Who is at the other end of a local socket. */
import type { Socket } from 'node:net';
import { check } from './errno.ts';
import { libc, SOL_SOCKET } from './libc.ts';

/** asm-generic/socket.h */
const SO_PEERCRED = 17;

/** The process at the other end when it connected, and its user as this process sees users: unix(7), struct ucred. */
export interface Peer {
  readonly pid: number;
  readonly uid: number;
}

/** Throws SystemError; of a socket that is not open any more, too. */
export function peerOf(socket: Socket): Peer {
  const credentials = new Int32Array(3);
  const { fd = -1 } = (socket as Socket & { readonly _handle?: { readonly fd: number } | null })._handle ?? {};
  const length = new Uint32Array([credentials.byteLength]);
  check('getsockopt(SO_PEERCRED)', libc.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, length));
  return { pid: credentials[0]!, uid: credentials[1]! };
}
