/** What is said of a safety net that cannot be there, on a real port of the loopback. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { expect, test } from 'vitest';
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

async function takePort(port: number) {
  const socket = createSocket('udp4').bind(port, '127.0.0.1');
  await once(socket, 'listening');
  const release = async () => {
    socket.close();
    await once(socket, 'close');
  };
  return { port: socket.address().port, release };
}
