/** By which socket datagrams leave, and what becomes of them where a socket is not to be had. */
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { BatchBuffers } from '../../agent/datapath/userspace/forward/batch-buffers.ts';
import { BatchSources } from '../../agent/datapath/userspace/forward/batch-sources.ts';
import { Forwarder, maxDescriptors } from '../../agent/datapath/userspace/forward/forwarder.ts';
import { GsoPlan } from '../../agent/datapath/userspace/forward/gso-plan.ts';
import { type Preserve, SOURCE_PATH, SourcePaths } from '../../agent/datapath/userspace/forward/source-paths.ts';
import { Targets } from '../../agent/datapath/userspace/forward/targets.ts';
import { REASON } from '../../agent/datapath/userspace/reasons.ts';
import { buildSnapshot } from '../../agent/datapath/userspace/snapshot.ts';
import { Descriptors } from '../../agent/datapath/userspace/sockets/descriptors.ts';
import { MAX_CONNECTED, NatSockets } from '../../agent/datapath/userspace/sockets/nat.ts';
import { openNatSocket, SENDERS, type Senders } from '../../agent/datapath/userspace/sockets/open.ts';
import { ForwarderState } from '../../agent/datapath/userspace/workers/state.ts';
import { warmUp } from '../../agent/datapath/userspace/workers/warm-up.ts';
import { SystemError } from '../../agent/ffi/errno.ts';
import { buildTable } from '../../agent/table.ts';
import { anEndpoint } from '../fake/words.ts';

const { EMFILE } = constants.errno;
const { NAT, RAW, CLIENT, MARTIAN } = SOURCE_PATH;

/** No descriptor is left for any socket, but for those that are given. */
function senders(given: Partial<Senders> = {}): Senders {
  const none = () => {
    throw new SystemError('socket', EMFILE);
  };
  return { nat: none, raw: none, client: none, ...given };
}

const SOURCES = [4, 4, 6, 6].map((family, source) => [((source + 1) << 16) | family, 0x0900000a, 1, 1, 1]);

/** How a source of each family leaves: one that sends a single datagram, and one with several for one downstream. */
function paths(preserve: Partial<Preserve>, given: Partial<Senders>, each: readonly number[][] = SOURCES) {
  const all = { transparent: true, raw: true, maxSources: 4, ...preserve };
  const of = new SourcePaths(4, all, new Descriptors(16), senders(given));
  const sources = new BatchSources(4);
  sources.count = 4;
  for (const [source, words] of each.entries()) sources.words.set(words, source * 5);
  const plan = new GsoPlan(6);
  plan.begin();
  for (const [datagram, source] of [0, 1, 1, 2, 3, 3].entries()) plan.add(datagram, 100, source, 0, 1000);
  return (now: number) => {
    of.choose(plan, sources, now);
    return [...of.path];
  };
}

describe('a source', () => {
  const raw = () => 100;
  const client = () => 101;

  test('leaves by its own socket where that lets its datagrams be gathered, else by the raw one', () => {
    expect(paths({}, { raw, client })(0)).toEqual([RAW, CLIENT, RAW, CLIENT]);
  });

  test('leaves by its own socket where its family has no raw one, and by this host’s where it has neither', () => {
    const raw4 = (family: number) => (family === 4 ? 100 : senders().raw(6));
    expect(paths({}, { raw: raw4, client })(0)).toEqual([RAW, CLIENT, CLIENT, CLIENT]);
    expect(paths({}, { raw: raw4 })(0)).toEqual([RAW, RAW, NAT, NAT]);
    expect(paths({ transparent: false }, { raw: raw4 })(0)).toEqual([RAW, RAW, NAT, NAT]);
    expect(paths({ raw: false }, { client })(0)).toEqual([CLIENT, CLIENT, CLIENT, CLIENT]);
  });

  test('without a port keeps that by the raw socket, or has this host’s; without an address it goes nowhere', () => {
    const sources = [
      [4, 0x0900000a],
      [6, 0xfd, 0, 0, 1],
      [(7 << 16) | 4, 0],
      [(7 << 16) | 6, 0, 0, 0, 0],
    ];
    expect(paths({}, { raw, client }, sources)(0)).toEqual([RAW, RAW, MARTIAN, MARTIAN]);
    expect(paths({ raw: false }, { client }, sources)(0)).toEqual([NAT, NAT, MARTIAN, MARTIAN]);
  });

  test('gets its raw socket as soon as there is one again, a second later at most', () => {
    let isOut = true;
    let asked = 0;
    const scarce = () => {
      asked++;
      return isOut ? senders().raw(4) : 100;
    };
    const choose = paths({ transparent: false }, { raw: scarce });
    expect([choose(5000), choose(5999)]).toEqual([Array(4).fill(NAT), Array(4).fill(NAT)]);
    expect(asked).toBe(2);
    isOut = false;
    expect([choose(5999), choose(6000)]).toEqual([Array(4).fill(NAT), Array(4).fill(RAW)]);
    expect(asked).toBe(4);
  });
});

/** A forwarder with a batch of ten datagrams of ten sources. */
function forwarder(preserve: Preserve | undefined, given: Senders) {
  const buffers = new BatchBuffers(16, 1500, false);
  const state = new ForwarderState();
  const descriptors = new Descriptors(maxDescriptors(preserve));
  const fields = { fd: -1, index: 0, batchSize: 16, maxPacketSize: 1500, gathers: true };
  const one = new Forwarder({ ...fields, buffers, state, preserve, descriptors, senders: given });
  one.adopt(buildSnapshot(1, [buildTable(4, [anEndpoint('127.0.0.1', 9)])], [], 1));
  const send = () => {
    for (let message = 0; message < 10; message++) buffers.batch.pretend(message, message, 100);
    one.begin(10);
    one.forward();
    return state.read(0);
  };
  /** They came, and nothing else happened to them. */
  const fail = () => {
    for (let message = 0; message < 10; message++) buffers.batch.pretend(message, message, 100);
    one.begin(10);
    one.book();
    state.bookLost();
    return state.read(0);
  };
  return { send, fail, buffers, descriptors };
}

const KEEP = { transparent: false, raw: true, maxSources: 4 };

describe('a forwarder', () => {
  test('that fails before it looked at what had come books it as received and lost', () => {
    const { fail } = forwarder(undefined, SENDERS);
    const { received, bytesReceived, forwarded, dropped } = fail();
    expect({ received, bytesReceived, forwarded }).toEqual({ received: 10, bytesReceived: 1000, forwarded: 0 });
    expect(dropped[REASON.worker_died]).toBe(10);
  });

  test.each([
    ['nat', undefined],
    ['preserve', KEEP],
  ])('counts as lost what no socket can be had for (%s)', (_, preserve) => {
    const { received, forwarded, dropped } = forwarder(preserve, senders()).send();
    expect([received, forwarded, dropped[REASON.send_failed]]).toEqual([10, 0, 10]);
  });

  test.each([-1, -2])('counts no send by %i as forwarded, also after the warm-up of its buffers', (none) => {
    const { send, buffers } = forwarder(KEEP, senders({ raw: () => none, nat: () => none }));
    warmUp(buffers);
    const { received, forwarded, dropped } = send();
    expect([received, forwarded, dropped[REASON.send_failed]]).toEqual([10, 0, 10]);
  });
});

describe('descriptors', () => {
  test('are closed once, by whoever sees their memory last', () => {
    const mine = new Descriptors(2);
    const [first, second] = [0, 1].map(() => mine.own(openNatSocket(4)));
    mine.close(first!);
    const survivor = new Descriptors(mine.memory);
    // The number of one that is closed is the next one's that anybody opens.
    const foreign = openNatSocket(4);
    expect(foreign).toBe(first);
    survivor.closeAll();
    mine.closeAll();
    expect(() => closeSync(second!)).toThrow('EBADF');
    closeSync(foreign);
  });

  test('of downstreams are bounded, however the tables change', () => {
    let open = 0;
    const descriptors = new Descriptors(maxDescriptors(undefined));
    const sockets = new NatSockets(descriptors, (family) => {
      open++;
      return openNatSocket(family);
    });
    const close = descriptors.close.bind(descriptors);
    descriptors.close = (fd) => {
      open--;
      close(fd);
    };
    const ips = Array.from({ length: 3 * MAX_CONNECTED }, (_, i) => anEndpoint(`10.0.${i >> 8}.${i & 255}`));
    const adopt = (generation: number, of: typeof ips) => {
      const targets = new Targets(buildSnapshot(generation, [buildTable(4, of)], [], 1), 0, sockets, true);
      for (const downstream of of.keys()) targets.natSocket(downstream);
    };
    adopt(1, ips);
    adopt(2, ips.toReversed());
    descriptors.closeAll();
    expect(open).toBe(MAX_CONNECTED + 1);
  });
});
