/** Which of many sockets have something, on real sockets of the loopback. */
import { expect, onTestFinished, test } from 'vitest';
import { openListenerSocket } from '../../agent/datapath/userspace/sockets/open.ts';
import { Epoll } from '../../agent/ffi/epoll.ts';
import { F_DUPFD_CLOEXEC, libc, SOCK_DGRAM } from '../../agent/ffi/libc.ts';
import { AF, bind, boundAddress, sendTo, socket } from '../../lab/libc.ts';
import { encodeSockaddr } from '../../lab/sockaddr.ts';

const LOOPBACK = encodeSockaddr({ family: 4, ip: '127.0.0.1', port: 0 });

function closing(fd: number): number {
  onTestFinished(() => void libc.close(fd));
  return fd;
}

/** Sockets of the loopback, an epoll, and a way to send to one of them. */
function rig(count: number) {
  const sender = closing(socket(AF.INET, SOCK_DGRAM));
  const fds = Array.from({ length: count }, () => closing(socket(AF.INET, SOCK_DGRAM)));
  for (const fd of fds) bind(fd, LOOPBACK);
  const epoll = new Epoll();
  closing(epoll.fd);
  const send = (to: number) => expect(sendTo(sender, Buffer.from('x'), 1, boundAddress(fds[to]!))).toBe(0);
  const ready = () => Array.from({ length: epoll.wait(0) }, (_, at) => epoll.ready(at)).sort((a, b) => a - b);
  return { fds, epoll, send, ready };
}

test('tells those that have something, by their numbers, for as long as they have', () => {
  const { fds, epoll, send, ready } = rig(3);
  for (const [at, fd] of fds.entries()) epoll.add(fd, 1000 + at);
  expect(ready()).toEqual([]);
  send(2);
  send(0);
  expect([ready(), ready()]).toEqual([
    [1000, 1002],
    [1000, 1002],
  ]);
  libc.recv(fds[0]!, Buffer.alloc(1), 1, 0);
  expect(ready()).toEqual([1002]);
});

test('tells of none that was taken out, though another descriptor of the socket is open', () => {
  const { fds, epoll, send, ready } = rig(1);
  const copy = libc.fcntl(fds[0]!, F_DUPFD_CLOEXEC, 0);
  epoll.add(copy, 7);
  send(0);
  expect(ready()).toEqual([7]);
  epoll.remove(copy);
  libc.close(copy);
  expect(ready()).toEqual([]);
});

test('where more have something than one wait tells of, all have their turn', () => {
  const { fds, epoll, send, ready } = rig(200);
  for (const [at, fd] of fds.entries()) {
    epoll.add(fd, at);
    send(at);
  }
  const turns = Array.from({ length: 4 }, ready);
  expect(turns.every((turn) => turn.length > 0 && turn.length < 200)).toBe(true);
  expect(new Set(turns.flat()).size).toBe(200);
});

test('a listener’s socket that is not bound yet has nothing', () => {
  const { epoll, ready } = rig(0);
  const options = { receiveBuffer: 0, blocking: true, coalesces: true, onlyIpv6: false, isFurther: false };
  const { fd } = openListenerSocket({ family: 4, ip: '127.0.0.1', port: 9 }, { ...options, tellsArrival: false });
  epoll.add(closing(fd), 1);
  expect(ready()).toEqual([]);
});
