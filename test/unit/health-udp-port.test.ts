/** The udp_port prober against real sockets on the loopback; the host's own answer is an echo prober of the test's. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, describe, expect, test } from 'vitest';
import type { SocketAddress } from '../../agent/address.ts';
import { setTimer } from '../../agent/clock.ts';
import type { OpenProber, Prober } from '../../agent/health/prober.ts';
import { openUdpPort, withoutEcho } from '../../agent/health/udp-port.ts';

const QUIET_MS = 50;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** Its host answers, or does not. */
const echo = (answers: boolean): OpenProber => {
  const send: Prober['send'] = (_, callbacks) => {
    if (answers) callbacks.answer();
    return () => {};
  };
  return () => ({ keyOf: ({ ip }) => ip, send, release() {}, close() {} });
};

function opened(openEcho: OpenProber) {
  const prober = openUdpPort(openEcho, { timer: setTimer, timeoutMs: QUIET_MS * 4 })(() => {});
  cleanUps.push(() => prober.close());
  return prober;
}

async function receiver(ip: string, answers = false) {
  const family = ip.includes(':') ? 6 : 4;
  const socket = createSocket(`udp${family}`);
  const lengths: number[] = [];
  socket.on('message', (message, from) => {
    lengths.push(message.length);
    if (answers) socket.send('hello', from.port, from.address);
  });
  socket.bind(0, ip);
  await once(socket, 'listening');
  const address: SocketAddress = { family, ip, port: socket.address().port };
  const close = async () => {
    socket.close();
    await once(socket, 'close');
  };
  return { address, lengths, close };
}

/** What comes of a probe first, and after how long. */
async function probe(prober: Prober, address: SocketAddress) {
  const from = performance.now();
  const result = await new Promise<string>((resolve) => {
    prober.send(address, { answer: () => resolve('answer'), refused: resolve, unsent: resolve });
  });
  return { result, ms: performance.now() - from };
}

describe('udp_port', () => {
  test.each(['127.0.0.1', '::1'])('takes silence of %s for an answer, and a closed port for a no', async (ip) => {
    const { address, lengths, close } = await receiver(ip);
    const prober = opened(echo(true));
    for (let round = 0; round < 3; round++) {
      const { result, ms } = await probe(prober, address);
      expect(result).toBe('answer');
      expect(ms).toBeGreaterThanOrEqual(QUIET_MS - 2);
    }
    expect(lengths).toEqual([0, 0, 0]);
    await close();
    const { result, ms } = await probe(prober, address);
    expect(result).toBe('port_unreachable');
    expect(ms).toBeLessThan(QUIET_MS);
  });

  test('takes whatever comes back for an answer, at once', async () => {
    const { address, close } = await receiver('127.0.0.1', true);
    cleanUps.push(close);
    const { result, ms } = await probe(opened(echo(true)), address);
    expect(result).toBe('answer');
    expect(ms).toBeLessThan(QUIET_MS);
  });

  test('asks no port of a host that does not answer', async () => {
    const { address, lengths, close } = await receiver('127.0.0.1');
    cleanUps.push(close);
    const told: string[] = [];
    const tell = (what: string) => () => void told.push(what);
    opened(echo(false)).send(address, { answer: tell('answer'), refused: tell('no'), unsent: tell('unsent') });
    await new Promise((resolve) => setTimeout(resolve, 2 * QUIET_MS));
    expect({ told, lengths }).toEqual({ told: [], lengths: [] });
  });

  test('without echo requests a no is one, and silence is nothing', async () => {
    const { address, close } = await receiver('127.0.0.1');
    const prober = opened(withoutEcho('no NET_RAW'));
    const told: string[] = [];
    const callbacks = {
      answer: () => void told.push('answer'),
      refused: (hint: string) => void told.push(hint),
      unsent: (cause: string) => void told.push(cause),
    };
    prober.send(address, callbacks);
    await new Promise((resolve) => setTimeout(resolve, 2 * QUIET_MS));
    expect(told).toEqual(['no NET_RAW']);
    await close();
    prober.send(address, callbacks);
    await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
    expect(told).toEqual(['no NET_RAW', 'no NET_RAW', 'port_unreachable']);
  });
});
