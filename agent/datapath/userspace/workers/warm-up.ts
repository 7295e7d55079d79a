/**
 * A forwarder's first datagram would wait for its code to be compiled, and at ten a second so would the next thousand.
 * So before it begins, it works on made-up batches, whose sends go to no socket: nothing leaves the thread.
 */
import { parseIp } from '../../../address.ts';
import { buildTable } from '../../../table.ts';
import type { BatchBuffers } from '../forward/batch-buffers.ts';
import { Forwarder } from '../forward/forwarder.ts';
import { NOWHERE } from '../messages/message-block.ts';
import { buildSnapshot } from '../snapshot.ts';
import { openNatSockets } from '../sockets/nat.ts';
import { WorkerState } from './state.ts';

/** Enough for V8 to have seen and optimised the whole path; tens of milliseconds. */
const BATCHES = 200;
const SIZES = [200, 200, 80, 1400];
/** No descriptor either, but one by which the send is really tried, and fails. */
const BAD = -2;

/** Works on made-up batches with the thread's own buffers, as `preserves` says with sources or without. */
export function warmUp(buffers: BatchBuffers, preserves: boolean): void {
  const { messages } = buffers.batch;
  const snapshot = buildSnapshot(0, tables(), [], 1);
  let opened = 0;
  const fd = () => (++opened % 3 === 0 ? BAD : NOWHERE);
  const forwarder = new Forwarder({
    fd: BAD,
    index: 0,
    buffers,
    state: new WorkerState(),
    maxPacketSize: 65507,
    gathers: true,
    preserve: undefined,
    nat: openNatSockets(fd),
    ...(preserves && { raw: { 4: NOWHERE, 6: BAD } }),
  });
  forwarder.adopt(snapshot);
  for (let batch = 0; batch < BATCHES; batch++) {
    const count = batch % 4 === 0 ? 1 : 1 + (batch % messages);
    for (let message = 0; message < count; message++) {
      const size = SIZES[(batch + message) % SIZES.length]!;
      buffers.batch.pretend(message, batch % 3 === 0 ? 0 : message % 32, Math.min(size, buffers.batch.room));
    }
    forwarder.forward(count);
  }
}

function tables() {
  const endpoint = (ip: string) => ({ address: { ...parseIp(ip)!, port: 9 }, weight: 1 });
  const endpoints = ['192.0.2.1', '192.0.2.2', '192.0.2.3', '2001:db8::1'].map(endpoint);
  return [buildTable(4, endpoints), buildTable(6, endpoints)];
}
