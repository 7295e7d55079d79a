/** A NETLINK_ROUTE socket as a descriptor: datagrams in, datagrams out (netlink(7)). */
import { check } from '../ffi/errno.ts';
import {
  AF_NETLINK,
  libc,
  MSG_TRUNC,
  SO_RCVTIMEO,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_RAW,
  SOL_SOCKET,
} from '../ffi/libc.ts';
import { setBuffer, setOption } from '../ffi/socket-options.ts';

const NETLINK_ROUTE = 0;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const RECEIVE_BUFFER = 1 << 20;
const TIMEOUT_SECONDS = 5n;

/** What a fake must do to stand in for the kernel. */
export interface Channel {
  /** Sends one datagram; 0 or more, or -errno. */
  send(bytes: Uint8Array): number;
  /** Writes the next datagram into `buffer`; its whole length, which may be more than fitted, or -errno. */
  receive(buffer: Uint8Array): number;
  close(): void;
}

/** A socket for requests: a receive waits for its answer, 5 s at most (EAGAIN). Throws SystemError. */
export function openRequests(): Channel {
  return open(0, (fd) => {
    setOption(fd, SOL_SOCKET, SO_RCVTIMEO, new BigInt64Array([TIMEOUT_SECONDS, 0n]));
    setOption(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1);
    // The request is not sent back with its error.
    setOption(fd, SOL_NETLINK, NETLINK_CAP_ACK, 1);
  });
}

/** A socket that is told of changes in `groups` (RTNLGRP_*, 1 to 32); a receive never waits. Throws SystemError. */
export function openNotices(groups: readonly number[]): Channel {
  return open(SOCK_NONBLOCK, (fd) => {
    // struct sockaddr_nl: family and padding, port id (0: the kernel's choice), groups as a mask.
    const address = new Uint32Array(3);
    new Uint16Array(address.buffer)[0] = AF_NETLINK;
    for (const group of groups) address[2]! |= 1 << (group - 1);
    check('bind(AF_NETLINK)', libc.bind(fd, address, address.byteLength));
  });
}

function open(type: number, prepare: (fd: number) => void): Channel {
  const fd = check('socket(AF_NETLINK)', libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | type, NETLINK_ROUTE));
  try {
    setBuffer(fd, 'receive', RECEIVE_BUFFER);
    prepare(fd);
  } catch (error) {
    libc.close(fd);
    throw error;
  }
  return {
    send: (bytes) => libc.send(fd, bytes, bytes.length, 0),
    receive: (buffer) => libc.recv(fd, buffer, buffer.length, MSG_TRUNC),
    close: () => void libc.close(fd),
  };
}
