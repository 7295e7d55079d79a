/** The two sides of a takeover, over a socket of a folder's own. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { askToLetGo, type Desk, openDesk } from '../../agent/takeover.ts';
import { aLog } from '../fake/words.ts';

let folder: string;
let path: string;
let log: ReturnType<typeof aLog>;
const desks: Desk[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'takeover-'));
  path = join(folder, 'socket');
  log = aLog();
});
afterEach(() => {
  for (const desk of desks.splice(0)) desk.close();
  rmSync(folder, { recursive: true });
});

async function opened(may?: Parameters<typeof openDesk>[2]): Promise<Desk> {
  const desk = await openDesk(log, path, may);
  desks.push(desk);
  return desk;
}

test('is asked for, granted, and done once the other one serves; its end is seen', async () => {
  const desk = await opened();
  const asking = askToLetGo(path);
  const successor = await desk.asked;
  expect(successor.pid).toBe(process.pid);
  successor.released();
  const predecessor = (await asking)!;
  const told: string[] = [];
  successor.onWaits((names) => told.push([...names].join()));
  predecessor.waits(['a', 'b']);
  predecessor.waits([]);
  expect(await successor.serving).toBe(true);
  expect(told).toEqual(['a,b', '']);
  predecessor.close();
  expect(await successor.ended).toBe('ended');
  expect(log.lines).toEqual([]);
});

test('is over for the first of three agents once the third one has taken over from the second', async () => {
  const desk = await opened();
  const asking = askToLetGo(path);
  const successor = await desk.asked;
  successor.released();
  const predecessor = (await asking)!;
  predecessor.waits([]);
  predecessor.succeeded();
  expect([await successor.serving, await successor.ended]).toEqual([true, 'succeeded']);
  predecessor.close();
});

test('by an agent that ends before it serves is none', async () => {
  const desk = await opened();
  const asking = askToLetGo(path);
  const successor = await desk.asked;
  successor.released();
  (await asking)!.close();
  expect(await successor.serving).toBe(false);
});

test('is one agent’s: who asks later is turned away', async () => {
  const desk = await opened();
  const asking = askToLetGo(path);
  const successor = await desk.asked;
  expect(await askToLetGo(path)).toBeUndefined();
  successor.released();
  (await asking)!.close();
});

test('is not for who may not end the agent', async () => {
  await opened(({ uid }) => uid !== process.getuid!());
  expect(await askToLetGo(path)).toBeUndefined();
  expect(log.lines).toEqual([
    `WARN a process that may not take over has asked to pid=${process.pid} uid=${process.getuid!()}`,
  ]);
});

test('ends with an error where the other one does not let go, and with nothing where there is none', async () => {
  const desk = await opened();
  await expect(askToLetGo(path, 50)).rejects.toThrow(/did not let go within 0.05 s: stop it$/);
  await (await desk.asked).ended;
  expect(await askToLetGo(join(folder, 'nobody'))).toBeUndefined();
});

test('cannot be asked for where the place is taken, and the agent goes on', async () => {
  await opened();
  await opened();
  expect(log.lines).toEqual([
    expect.stringMatching(/^WARN no other agent can take over from this one error=.*EADDRINUSE/),
  ]);
});

test('is granted to who asks for it, and to nobody who only connects or says something else', async () => {
  const desk = await opened();
  const socket = connect({ path });
  socket.write('something\n');
  await once(socket.resume(), 'close');
  const asking = askToLetGo(path);
  const successor = await desk.asked;
  successor.released();
  (await asking)!.close();
  expect(await successor.serving).toBe(false);
});
