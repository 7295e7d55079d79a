/** A worker thread: one socket's datagrams to the downstreams until the agent says stop. Its own entry point. */
import { receiveMessageOnPort, workerData } from 'node:worker_threads';
import { MSG_DONTWAIT } from '../../ffi/mmsg.ts';
import { pinThread } from './cpus.ts';
import { Forwarder } from './forwarder.ts';
import type { WorkerJob } from './job.ts';
import { rehearse } from './rehearsal.ts';
import { Scratch } from './scratch.ts';
import type { TableImage } from './table.ts';
import { Tally } from './tally.ts';

/** What is in the buffer when the agent stops is still sent, but not what a sender adds to it for ever. */
const LAST_BATCHES = 256;

const job = workerData as WorkerJob;
const tally = new Tally(job.tally);
if (job.cpu !== undefined) pinThread(job.cpu);
const scratch = new Scratch(job.batchSize, job.maxPacketSize, job.coalesces);
rehearse(scratch, job.preserve !== undefined);
const forwarder = new Forwarder({ ...job, tally, scratch });
let adopted = job.image.generation;
forwarder.adopt(job.image);
tally.adopt(adopted);

while (!tally.stopping) work(0);
for (let batch = 0; batch < LAST_BATCHES && work(MSG_DONTWAIT) > 0; batch++);
forwarder.close();
tally.leave();

function work(flags: 0 | typeof MSG_DONTWAIT): number {
  const count = forwarder.receive(flags);
  if (count === 0) return 0;
  // Said before the generation is looked at: an agent that sees this thread at rest knows that it will see the new one.
  tally.work();
  if (tally.generation !== adopted) takeImage(tally.generation);
  forwarder.forward(count);
  tally.rest();
  return count;
}

/** The image of a generation was posted before the generation was told. */
function takeImage(generation: number): void {
  for (;;) {
    const message = receiveMessageOnPort(job.images) as { message: TableImage } | undefined;
    if (!message) throw new Error(`table of generation ${generation} is missing`);
    if (message.message.generation !== generation) continue;
    forwarder.adopt(message.message);
    adopted = generation;
    tally.adopt(adopted);
    return;
  }
}
