/** The udp_echo prober against real sockets on the loopback: one that echoes, and others that do worse. */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, describe, expect, test } from 'vitest';
import type { SocketAddress } from '../../agent/address.ts';
import type { Hint, Prober } from '../../agent/health/prober.ts';
import { openUdpEcho } from '../../agent/health/udp-echo.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

type Answer = (socket: Socket, message: Buffer, from: RemoteInfo) => void;
const echoes: Answer = (socket, message, { port, address }) => socket.send(message, port, address);

/** A receiver on a free port. */
async function receiver(answer: Answer, ip = '127.0.0.1') {
  const socket = createSocket(ip.includes(':') ? 'udp6' : 'udp4');
  const datagrams: { text: string; port: number }[] = [];
  socket.on('message', (message, from) => {
    datagrams.push({ text: message.toString(), port: from.port });
    answer(socket, message, from);
  });
  socket.bind(0, ip);
  await once(socket, 'listening');
  cleanUps.push(() => socket.close());
  const address: SocketAddress = { family: ip.includes(':') ? 6 : 4, ip, port: socket.address().port };
  return { socket, address, datagrams };
}

function prober() {
  const hints: Hint[] = [];
  let wake = () => {};
  const opened: Prober = openUdpEcho((_, hint) => {
    hints.push(hint);
    wake();
  });
  cleanUps.push(() => opened.close());
  const hinted = async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    wake = resolve;
    if (hints.length === 0) await promise;
  };
  return { prober: opened, hints, hinted };
}

/** One probe: what it came to, as a promise, and how to forget it. */
function probe(of: Prober, address: SocketAddress) {
  const { promise, resolve } = Promise.withResolvers<string>();
  const forget = of.send(address, {
    answer: () => resolve('answer'),
    unsent: (cause) => resolve(cause),
    refused: resolve,
  });
  return { result: promise, forget };
}

describe('udp_echo', () => {
  test.each(['127.0.0.1', '::1'])('takes its own nonce from %s for an answer, each time another', async (ip) => {
    const { address, datagrams } = await receiver(echoes, ip);
    const { prober: one, hints } = prober();
    for (let round = 0; round < 5; round++) expect(await probe(one, address).result).toBe('answer');
    expect(new Set(datagrams.map(({ text }) => text)).size).toBe(5);
    expect(new Set(datagrams.map(({ port }) => port)).size).toBe(1);
    for (const { text } of datagrams) expect(text).toMatch(/^udp-fanout health [0-9a-f]{32}\n$/);
    expect(hints).toEqual([]);
  });

  test('takes a wrong answer for a hint, and the right one after it for an answer', async () => {
    const { address } = await receiver((socket, message, { port, address }) => {
      socket.send('whatever you say', port, address);
      socket.send(message.subarray(1), port, address);
      socket.send(message, port, address);
      socket.send(message, port, address);
    });
    const { prober: one, hints } = prober();
    expect(await probe(one, address).result).toBe('answer');
    expect(hints).toEqual(['wrong_answer', 'wrong_answer']);
  });

  test('does not hear an answer from another port', async () => {
    const other = await receiver(() => {});
    const { address } = await receiver((socket, message, { port, address }) => {
      other.socket.send(message, port, address, () => socket.send('the end', port, address));
    });
    const { prober: one, hints, hinted } = prober();
    const { result } = probe(one, address);
    await hinted();
    expect(await Promise.race([result, 'silence'])).toBe('silence');
    expect(hints).toEqual(['wrong_answer']);
  });

  test('takes a port unreachable for a hint', async () => {
    const { socket, address } = await receiver(echoes);
    cleanUps.pop();
    socket.close();
    const { prober: one, hints, hinted } = prober();
    probe(one, address);
    await hinted();
    expect(hints).toEqual(['port_unreachable']);
  });

  test('ignores an answer to a forgotten probe, and does not call it wrong', async () => {
    const held: (() => void)[] = [];
    const { address, datagrams } = await receiver((...all) =>
      held.length === 0 ? held.push(() => echoes(...all)) : echoes(...all),
    );
    const { prober: one, hints } = prober();
    const first = probe(one, address);
    while (datagrams.length === 0) await new Promise(setImmediate);
    first.forget();
    const second = probe(one, address);
    held[0]!();
    expect(await Promise.race([first.result, second.result.then((result) => `second: ${result}`)])).toBe(
      'second: answer',
    );
    expect(hints).toEqual([]);
  });

  test('asks from a new socket after three silent probes: the old one may have lost its source address', async () => {
    const { address, datagrams } = await receiver(() => {});
    const { prober: one } = prober();
    for (let count = 1; count <= 4; count++) {
      probe(one, address);
      while (datagrams.length < count) await new Promise(setImmediate);
    }
    const [first, second, third, fourth] = datagrams.map(({ port }) => port);
    expect([second, third]).toEqual([first, first]);
    expect(fourth).not.toBe(first);
  });

  test('says what kept a probe from leaving, for every probe of the round', async () => {
    const { prober: one, hints } = prober();
    // No socket may send to a broadcast address unasked (EACCES): the connection itself fails.
    const address: SocketAddress = { family: 4, ip: '255.255.255.255', port: 9 };
    expect(await probe(one, address).result).toContain('EACCES');
    expect(await probe(one, address).result).toContain('EACCES');
    expect(hints).toEqual([]);
  });

  test('a released address may be asked again', async () => {
    const { address } = await receiver(echoes);
    const { prober: one } = prober();
    one.release(address);
    expect(await probe(one, address).result).toBe('answer');
    one.release(address);
    expect(await probe(one, address).result).toBe('answer');
  });
});
