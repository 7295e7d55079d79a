/** setsockopt(2) with its errors thrown. */
import { constants } from 'node:os';
import { check } from './errno.ts';
import { libc, SO_RCVBUF, SO_RCVBUFFORCE, SO_SNDBUF, SO_SNDBUFFORCE, SOL_SOCKET } from './libc.ts';

/** A number is an int. Throws SystemError. */
export function setOption(fd: number, level: number, name: number, value: number | NodeJS.TypedArray): void {
  const bytes = typeof value === 'number' ? new Int32Array([value]) : value;
  check(`setsockopt(${level}, ${name})`, libc.setsockopt(fd, level, name, bytes, bytes.byteLength));
}

const BUFFERS = {
  receive: { forced: SO_RCVBUFFORCE, plain: SO_RCVBUF },
  send: { forced: SO_SNDBUFFORCE, plain: SO_SNDBUF },
} as const;

/** Asks for a buffer of so many bytes. Above rmem_max and wmem_max takes NET_ADMIN; without it less has to do. */
export function setBuffer(fd: number, which: keyof typeof BUFFERS, bytes: number): void {
  const { forced, plain } = BUFFERS[which];
  const result = libc.setsockopt(fd, SOL_SOCKET, forced, new Int32Array([bytes]), 4);
  if (result === -constants.errno.EPERM) setOption(fd, SOL_SOCKET, plain, bytes);
  else check(`setsockopt(${SOL_SOCKET}, ${forced})`, result);
}
