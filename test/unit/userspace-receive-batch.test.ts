/** What a batch says of the datagrams of real sockets, whatever was received into its buffers before. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { Family } from '../../agent/address.ts';
import { ReceiveBatch } from '../../agent/datapath/userspace/messages/receive-batch.ts';
import { bindTo, openListenerSocket } from '../../agent/datapath/userspace/sockets/open.ts';
import { check } from '../../agent/ffi/errno.ts';
import { libc, SOCK_DGRAM, SOL_UDP, UDP_SEGMENT } from '../../agent/ffi/libc.ts';
import { setOption } from '../../agent/ffi/socket-options.ts';
import { abilities } from '../../agent/kernel/abilities.ts';
import { AF } from '../../lab/libc.ts';
import { encodeSockaddr } from '../../lab/sockaddr.ts';

const LOOPBACK = { 4: '127.0.0.1', 6: '::1' } as const;
const NO_WAIT = 0x40;

/** A listener's socket on the loopback, and a sender with a port of its own. */
async function pair(family: Family, coalesces: boolean) {
  const sender = createSocket(family === 4 ? 'udp4' : 'udp6').bind(0, LOOPBACK[family]);
  await once(sender, 'listening');
  const taken = createSocket(family === 4 ? 'udp4' : 'udp6').bind(0, LOOPBACK[family]);
  await once(taken, 'listening');
  const { port } = taken.address();
  taken.close();
  await once(taken, 'close');
  // As a wildcard's second worker has it, which is told where IPv4 was sent to.
  const bind = { family, ip: family === 4 && coalesces ? '0.0.0.0' : LOOPBACK[family], port };
  const { fd } = openListenerSocket(bind, {
    receiveBuffer: 1 << 20,
    blocking: false,
    coalesces,
    onlyIpv6: false,
    isFurther: coalesces,
    tellsArrival: false,
  });
  bindTo(fd, bind);
  onTestFinished(() => {
    libc.close(fd);
    sender.close();
  });
  return { family, fd, port, sender };
}

type Pair = Awaited<ReturnType<typeof pair>>;

async function sendEach({ family, port, sender }: Pair, sizes: readonly number[]): Promise<void> {
  for (const size of sizes) await sent(sender, Buffer.alloc(size, size), port, LOOPBACK[family]);
}

function sent(socket: Socket, payload: Buffer, port: number, ip: string): Promise<unknown> {
  return new Promise((resolve, reject) =>
    socket.send(payload, port, ip, (error) => (error ? reject(error) : resolve(0))),
  );
}

/** Receives once: each datagram's family, source port, last word of the source's address, and size. */
function receiveAll(batch: ReceiveBatch, fd: number) {
  const count = check('recvmmsg', batch.receive(fd, NO_WAIT));
  expect(batch.unpack(0, count)).toBe(count);
  const source = new Uint32Array(5);
  return Array.from({ length: batch.count }, (_, i) => {
    const message = batch.message[i]!;
    batch.source(message, source, 0);
    const [first = 0, v4, , , v6] = source;
    const port = ((first >>> 24) | ((first >>> 8) & 0xff00)) & 0xffff;
    const payload = batch.payloads.bytes.subarray(batch.at[i]!, batch.at[i]! + batch.size[i]!);
    expect(payload.every((byte) => byte === (batch.size[i]! & 0xff))).toBe(true);
    return [batch.family(message), port, batch.family(message) === 4 ? v4 : v6, batch.size[i]];
  });
}

describe('a batch shared by sockets', () => {
  test('has each datagram as it came: families, sizes and numbers of messages by turns', async () => {
    const pairs = [await pair(4, false), await pair(6, false)];
    const batch = new ReceiveBatch(8, 1500, false);
    const rounds = [[1], [0, 1400, 7], [1400], [9, 8, 7, 6, 5, 4, 3, 2], [0]];
    for (const sizes of rounds.flatMap((round) => [round, round.toReversed()])) {
      for (const one of [...pairs, pairs[1]!]) {
        await sendEach(one, sizes);
        const { port } = one.sender.address();
        const ip = one.family === 4 ? 0x0100_007f : 0x0100_0000;
        expect(receiveAll(batch, one.fd)).toEqual(sizes.map((size) => [one.family, port, ip, size]));
      }
    }
  });

  test.skipIf(!abilities().coalesces || !abilities().gathers)(
    'cuts up what was coalesced, before and after messages of one datagram, and after what nobody looked at',
    async () => {
      const pairs = [await pair(6, true), await pair(4, true)];
      const batch = new ReceiveBatch(8, 1500, true);
      for (let round = 0; round < 6; round++) {
        for (const one of pairs) {
          const ip = one.family === 4 ? 0x0100_007f : 0x0100_0000;
          sendGathered(one, 100, 10);
          expect(receiveAll(batch, one.fd).map(([family, , , size]) => [family, size])).toEqual(
            Array(10).fill([one.family, 100]),
          );
          await sendEach(one, [300, 1]);
          const { port } = one.sender.address();
          expect(receiveAll(batch, one.fd)).toEqual([300, 1].map((size) => [one.family, port, ip, size]));
          // A forwarder that failed between receiving and forwarding leaves its messages as they came.
          await sendEach(one, [20]);
          sendGathered(one, 50, 3);
          expect(batch.receive(one.fd, NO_WAIT)).toBe(2);
        }
      }
    },
  );
});

/** One packet of `count` datagrams. */
function sendGathered({ family, port }: Pair, size: number, count: number): void {
  const fd = check('socket', libc.socket(family === 4 ? AF.INET : AF.INET6, SOCK_DGRAM, 0));
  setOption(fd, SOL_UDP, UDP_SEGMENT, size);
  const to = encodeSockaddr({ family, ip: LOOPBACK[family], port });
  const payload = Buffer.alloc(size * count, size);
  check('sendto', libc.sendto(fd, payload, payload.length, 0, to, to.length));
  libc.close(fd);
}
