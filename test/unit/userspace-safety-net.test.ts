/** What is said of a safety net that cannot be there, on a real port of the loopback. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import type { ListenerCounters } from '../../agent/datapath/datapath.ts';
import { openUserspaceDatapath } from '../../agent/datapath/userspace/datapath.ts';
import { buildTable } from '../../agent/table.ts';
import { aListener, aLog, anEndpoint } from '../fake/words.ts';

test('each time that it is missing is said, and each time that it is there again', async () => {
  const taken = await takePort(0);
  const bind = { family: 4 as const, ip: '127.0.0.1', port: taken.port };
  const listener = aListener({ name: 'syslog', bind });
  const log = aLog();
  const datapath = openUserspaceDatapath({ log, isSafetyNet: () => true });
  const tables = [buildTable(4, [anEndpoint('10.0.0.1')])];
  const apply = (listeners: readonly (typeof listener)[]) =>
    datapath.apply({
      addresses: [],
      listeners: listeners.map((one) => ({ listener: one, interfaces: [], absent: [], tables })),
    });
  const missing = expect.stringMatching(
    /^WARN no safety net: failed to open listener "syslog" on 127\.0\.0\.1:\d+: .*has the port$/,
  );
  const back = 'INFO listener "syslog" has its safety net again';
  try {
    expect(apply([listener])).toEqual([]);
    apply([listener]);
    expect(log.lines).toEqual([missing]);
    await taken.release();
    apply([listener]);
    apply([listener]);
    expect(log.lines).toEqual([missing, back]);
    apply([]);
    const again = await takePort(bind.port);
    apply([listener]);
    expect(log.lines).toEqual([missing, back, missing]);
    await again.release();
    apply([listener]);
    expect(log.lines).toEqual([missing, back, missing, back]);
  } finally {
    datapath.remove();
  }
});

test('what it had in hand when it failed is dropped by name', async () => {
  const free = await takePort(0);
  await free.release();
  const bind = { family: 4 as const, ip: '127.0.0.1', port: free.port };
  const listener = aListener({ name: 'syslog', bind, source: 'nat' });
  const log = aLog();
  const fails = () => {
    throw new Error('out of luck');
  };
  const datapath = openUserspaceDatapath({
    log,
    isSafetyNet: () => true,
    senders: { nat: fails, raw: fails, client: fails },
  });
  const tables = [buildTable(4, [anEndpoint('10.0.0.1')])];
  const client = createSocket('udp4');
  try {
    datapath.apply({ addresses: [], listeners: [{ listener, interfaces: [], absent: [], tables }] });
    for (let sent = 0; sent < 3; sent++) client.send('x', bind.port, bind.ip);
    const counts = () => {
      const [{ received, forwarded, dropped }] = datapath.counters() as [ListenerCounters];
      return { received, forwarded, lost: dropped.get('worker_died') };
    };
    await expect.poll(counts, { timeout: 5000 }).toEqual({ received: 3, forwarded: 0, lost: 3 });
    expect(log.lines[0]).toBe('ERROR safety net failed listener="syslog" error="out of luck"');
  } finally {
    client.close();
    datapath.remove();
  }
});

async function takePort(port: number) {
  const socket = createSocket('udp4').bind(port, '127.0.0.1');
  await once(socket, 'listening');
  const release = async () => {
    socket.close();
    await once(socket, 'close');
  };
  return { port: socket.address().port, release };
}
