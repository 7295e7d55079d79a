/** A worker thread: the datagrams of the sockets that it is given go to the downstreams until the agent says stop. Its own entry point. */
import { receiveMessageOnPort, workerData } from 'node:worker_threads';
import { Epoll } from '../../../ffi/epoll.ts';
import { MSG_DONTWAIT } from '../../../ffi/mmsg.ts';
import { sharedBuffers } from '../forward/batch-buffers.ts';
import { LARGEST_MESSAGE } from '../messages/receive-batch.ts';
import { Descriptors } from '../sockets/descriptors.ts';
import { runOn } from './cpus.ts';
import type { ThreadJob, ThreadMessage } from './job.ts';
import { ServedSocket } from './served-socket.ts';
import { ThreadState } from './thread-state.ts';
import { warmUp } from './warm-up.ts';

/** How long nothing may come before the agent's word is looked for; of a single socket it is the receive that ends so soon. */
const WAIT_MS = 100;
const WARM_UP_BATCH = 64;

const job = workerData as ThreadJob;
const state = new ThreadState(job.state);
const descriptors = new Descriptors(job.descriptors);
/** By id. */
const sockets = new Map<number, ServedSocket>();
/** Those of them that the epoll watches: all, or none where there is but one, whose receive is the cheaper wait. */
const watched = new Set<ServedSocket>();
/** Those that were told to end. */
const ending = new Set<ServedSocket>();
/** The one that is not watched. */
let only: ServedSocket | undefined;
let pinned = false;

try {
  if (!state.stopping) run(open());
} finally {
  for (const socket of sockets.values()) socket.close();
  descriptors.closeAll();
  state.leave();
}

function open(): Epoll {
  const epoll = new Epoll();
  descriptors.own(epoll.fd);
  warmUp(sharedBuffers(WARM_UP_BATCH, LARGEST_MESSAGE, true));
  return epoll;
}

function run(epoll: Epoll): void {
  for (let known = -1; !state.ends; ) {
    state.beat();
    const { news } = state;
    if (news !== known) {
      known = news;
      takeMessages();
      for (const socket of sockets.values()) if (socket.isToEnd) ending.add(socket);
      arrange(epoll);
    }
    if (only) only.work(0);
    else if (watched.size > 0) serveReady(epoll);
    else state.waitForNews(known, WAIT_MS);
    if (ending.size > 0) end(epoll);
  }
}

/** A batch of each socket that has something, so that none waits for more than that of the others. */
function serveReady(epoll: Epoll): void {
  const count = epoll.wait(WAIT_MS);
  for (let at = 0; at < count; at++) sockets.get(epoll.ready(at))!.work(MSG_DONTWAIT);
}

function takeMessages(): void {
  for (;;) {
    const received = receiveMessageOnPort(job.messages) as { message: ThreadMessage } | undefined;
    if (!received) return;
    const { message } = received;
    if ('serve' in message) sockets.set(message.serve.id, new ServedSocket(message.serve, takeMessages));
    // One that has ended meanwhile needs no table.
    else sockets.get(message.id)?.adopt(message.snapshot);
  }
}

function end(epoll: Epoll): void {
  const now = performance.now();
  const before = sockets.size;
  for (const socket of ending) {
    if (!socket.goesOut(now)) continue;
    if (watched.delete(socket)) epoll.remove(socket.fd);
    socket.close();
    sockets.delete(socket.id);
    ending.delete(socket);
  }
  if (sockets.size < before) arrange(epoll);
}

/** Has the thread wait, and run, as its sockets want it. */
function arrange(epoll: Epoll): void {
  const many = sockets.size > 1;
  only = many ? undefined : sockets.values().next().value;
  for (const socket of sockets.values()) {
    if (many === watched.has(socket)) continue;
    if (many) epoll.add(socket.fd, socket.id);
    else epoll.remove(socket.fd);
    if (many) watched.add(socket);
    else watched.delete(socket);
  }
  const pin = sockets.size > 0 && [...sockets.values()].every((socket) => socket.pin);
  if (pin !== pinned) runOn(pin ? [job.cpu] : job.cpus);
  pinned = pin;
}
