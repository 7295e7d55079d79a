/** A worker thread: one socket's datagrams to the downstreams until the agent says stop. Its own entry point. */
import { receiveMessageOnPort, workerData } from 'node:worker_threads';
import { MSG_DONTWAIT } from '../../../ffi/mmsg.ts';
import { BatchBuffers } from '../forward/batch-buffers.ts';
import { Forwarder } from '../forward/forwarder.ts';
import type { TableSnapshot } from '../snapshot.ts';
import { Descriptors } from '../sockets/descriptors.ts';
import { pinThread } from './cpus.ts';
import type { WorkerJob } from './job.ts';
import { WorkerState } from './state.ts';
import { warmUp } from './warm-up.ts';

/** What is in the buffer when the agent stops is still sent, but not what a sender adds to it for ever. */
const LAST_BATCHES = 256;

const job = workerData as WorkerJob;
const state = new WorkerState(job.state);
const descriptors = new Descriptors(job.descriptors);
let adopted = job.snapshot.generation;
try {
  if (!state.stopping) run(open());
} finally {
  descriptors.closeAll();
  state.leave();
}

function open(): Forwarder {
  if (job.cpu !== undefined) pinThread(job.cpu);
  const buffers = new BatchBuffers(job.batchSize, job.maxPacketSize, job.coalesces);
  warmUp(buffers, job.preserve !== undefined);
  const forwarder = new Forwarder({ ...job, state, buffers, descriptors });
  forwarder.adopt(job.snapshot);
  state.adopt(adopted);
  return forwarder;
}

function run(forwarder: Forwarder): void {
  state.beat();
  while (!state.stopping) if (work(forwarder, 0) === 0) state.beat();
  // The socket has been withdrawn, but what was on its way to it then comes all the same.
  work(forwarder, 0);
  for (let batch = 0; batch < LAST_BATCHES && work(forwarder, MSG_DONTWAIT) > 0; batch++);
}

function work(forwarder: Forwarder, flags: 0 | typeof MSG_DONTWAIT): number {
  const count = forwarder.receive(flags);
  if (count === 0) return 0;
  // Said before the generation is looked at: an agent that sees this thread at rest knows that it will see the new one.
  state.work();
  if (state.generation !== adopted) takeSnapshot(forwarder, state.generation);
  forwarder.forward(count);
  state.rest();
  return count;
}

/** The snapshot of a generation was posted before the generation was told. */
function takeSnapshot(forwarder: Forwarder, generation: number): void {
  for (;;) {
    const message = receiveMessageOnPort(job.snapshots) as { message: TableSnapshot } | undefined;
    if (!message) throw new Error(`table of generation ${generation} is missing`);
    if (message.message.generation !== generation) continue;
    forwarder.adopt(message.message);
    adopted = generation;
    state.adopt(adopted);
    return;
  }
}
