/**
 * A forwarder's first datagram would wait for its code to be compiled, and at ten a second so would the next thousand.
 * So before it begins, it works on made-up batches, whose sends are discarded or fail: nothing leaves the thread.
 */
import { parseIp } from '../../../address.ts';
import { buildTable } from '../../../table.ts';
import type { BatchBuffers } from '../forward/batch-buffers.ts';
import { Forwarder } from '../forward/forwarder.ts';
import { buildSnapshot } from '../snapshot.ts';
import { Descriptors } from '../sockets/descriptors.ts';
import type { Senders } from '../sockets/open.ts';
import { ForwarderState } from './state.ts';

/** Enough for V8 to have seen and optimised the whole path; tens of milliseconds. */
const BATCHES = 200;
const SIZES = [200, 200, 80, 1400];
/** No descriptor, as no process has so many: where a send by it is tried, it fails. */
const NO_SOCKET = 0x7fff_ffff;
const SENDERS: Senders = { nat: () => NO_SOCKET, raw: () => NO_SOCKET, client: () => NO_SOCKET };

/** Works on made-up batches with the thread's own buffers, with sources and without. */
export function warmUp(buffers: BatchBuffers): void {
  for (const preserves of [false, true]) workOn(buffers, preserves);
}

function workOn(buffers: BatchBuffers, preserves: boolean): void {
  const { messages } = buffers.batch;
  const snapshot = buildSnapshot(0, tables(), [], 1);
  const forwarder = new Forwarder({
    fd: NO_SOCKET,
    index: 0,
    buffers,
    batchSize: messages,
    state: new ForwarderState(),
    maxPacketSize: 65507,
    gathers: true,
    preserve: preserves ? { transparent: false, raw: true, maxSources: 0 } : undefined,
    // Keeps none, so that none is closed.
    descriptors: new Descriptors(0),
    senders: SENDERS,
  });
  forwarder.adopt(snapshot);
  for (let batch = 0; batch < BATCHES; batch++) {
    // Mostly all goes well, and the rest has been seen too.
    buffers.messages.discards = batch % 3 !== 0;
    const count = batch % 4 === 0 ? 1 : 1 + (batch % messages);
    for (let message = 0; message < count; message++) {
      const size = SIZES[(batch + message) % SIZES.length]!;
      buffers.batch.pretend(message, batch % 3 === 0 ? 0 : message % 32, Math.min(size, buffers.batch.room));
    }
    forwarder.begin(count);
    forwarder.forward();
  }
  buffers.messages.discards = false;
}

function tables() {
  const endpoint = (ip: string) => ({ address: { ...parseIp(ip)!, port: 9 }, weight: 1 });
  const endpoints = ['192.0.2.1', '192.0.2.2', '192.0.2.3', '2001:db8::1'].map(endpoint);
  return [buildTable(4, endpoints), buildTable(6, endpoints)];
}
