/** Which of many descriptors can be read (epoll(7)), asked without an allocation a call. */
import koffi from 'koffi';
import { check } from './errno.ts';
import { call } from './libc.ts';
import { Memory } from './mmsg.ts';

/** sys/epoll.h: struct epoll_event is packed on x86-64 alone. */
const EVENT = process.arch === 'x64' ? { size: 12, data: 4 } : { size: 16, data: 8 };
const EPOLL_CLOEXEC = 0x80000;
const EPOLLIN = 1;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
/** Of one wait; what is ready beyond that comes first the next time. */
const MOST_EVENTS = 64;
const WORD = 4;

const create = call('int epoll_create1(int flags)');
const control = call('int epoll_ctl(int epoll, int operation, int fd, void *event)');
let wait: ((epoll: number, events: bigint, most: number, timeout: number) => number) | undefined;

export class Epoll {
  readonly fd: number;
  readonly #events = new Memory(MOST_EVENTS * EVENT.size);
  readonly #start = this.#events.address(0);

  /** Throws SystemError. The descriptor is the caller's to close. */
  constructor() {
    this.fd = check('epoll_create1', create(EPOLL_CLOEXEC));
    wait ??= koffi
      .load('libc.so.6')
      .func('int epoll_wait(int epoll, void *events, int most, int timeout)') as unknown as typeof wait;
  }

  /** Watches a descriptor, which `ready` calls by the number `id`. Throws SystemError. */
  add(fd: number, id: number): void {
    const event = new Uint32Array(EVENT.size / WORD);
    event[0] = EPOLLIN;
    event[EVENT.data / WORD] = id;
    check('epoll_ctl', control(this.fd, EPOLL_CTL_ADD, fd, event));
  }

  /** Before it is closed: as long as another descriptor of the same socket is open, a close alone ends no watch. Throws SystemError. */
  remove(fd: number): void {
    check('epoll_ctl', control(this.fd, EPOLL_CTL_DEL, fd, null));
  }

  /** Waits so many milliseconds for something to be ready; how many are, 0 also after a signal. */
  wait(timeout: number): number {
    return Math.max(0, wait!(this.fd, this.#start, MOST_EVENTS, timeout));
  }

  /** The number of what was ready in place `at` of the last wait. */
  ready(at: number): number {
    return this.#events.u32[(at * EVENT.size + EVENT.data) / WORD]!;
  }
}
