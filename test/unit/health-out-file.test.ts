/** What an agent leaves of downstreams that are out, in real files, and what the next one makes of it. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { OutFile } from '../../agent/health/out-file.ts';
import { aListener, aLog, anEndpoint } from '../fake/words.ts';

const LISTENER = aListener({ name: 'syslog' });
const [ONE, OTHER] = [anEndpoint('10.0.0.1'), anEndpoint('10.0.0.2')];

function rig() {
  const folder = mkdtempSync(join(tmpdir(), 'udp-fanout-outs-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'run/out.json');
  const log = aLog();
  const clock = { now: 1000 };
  const open = (file = path) => new OutFile({ log, path: file, now: () => clock.now });
  /** Where these are out. */
  const health = (...out: (typeof ONE)[]) => ({
    endpoints: () =>
      [ONE, OTHER].map((endpoint) => ({ listener: LISTENER, endpoint, healthy: !out.includes(endpoint) })),
  });
  const known = (file: OutFile) => [ONE, OTHER].map(({ address }) => file.has(LISTENER, address));
  return { folder, path, log, clock, open, health, known };
}

function left({ open, health }: ReturnType<typeof rig>): void {
  const first = open();
  first.changed();
  first.write(health(ONE));
}

test('the next agent knows what was out, until it is back', () => {
  const now = rig();
  const { open, known, health, path } = now;
  expect(known(open())).toEqual([false, false]);
  left(now);
  const second = open();
  expect(known(second)).toEqual([true, false]);
  expect(second.has(aListener({ name: 'other' }), ONE.address)).toBe(false);
  second.changed();
  second.write(health());
  expect(existsSync(path)).toBe(false);
  expect(known(open())).toEqual([false, false]);
});

test('it is written when there is news, and now and then for as long as something is out', () => {
  const now = rig();
  const { open, health, path, clock } = now;
  left(now);
  const file = open();
  const at = () => JSON.parse(readFileSync(path, 'utf8')).at;
  clock.now += 59;
  file.changed();
  file.write(health(ONE));
  expect(at()).toBe(1000);
  clock.now += 1;
  file.write(health(ONE));
  expect(at()).toBe(1060);
});

test('a listener whose endpoints are not known yet keeps what was out', () => {
  const now = rig();
  left(now);
  const second = now.open();
  second.changed();
  second.write({ endpoints: () => [] });
  expect(now.known(now.open())).toEqual([true, false]);
});

test('what is old, of another boot or no file of ours tells nothing', () => {
  const now = rig();
  const { open, known, clock, path } = now;
  left(now);
  clock.now += 601;
  expect(known(open())).toEqual([false, false]);
  const text = readFileSync(path, 'utf8');
  clock.now = 1000;
  expect(known(open())).toEqual([true, false]);
  for (const other of [text.replace(/"boot":"./, '"boot":"_'), '{}', 'null', '[', text.slice(0, 40)]) {
    writeFileSync(path, other);
    expect(known(open())).toEqual([false, false]);
  }
});

test('where it cannot be written that is said once', () => {
  const { open, health, log } = rig();
  const file = open('/proc/udp-fanout/out.json');
  for (const out of [ONE, OTHER]) {
    file.changed();
    file.write(health(out));
  }
  expect(log.lines).toEqual([
    expect.stringMatching(
      /^INFO downstreams that are out will not be known after a restart in mode userspace error=".*ENOENT/,
    ),
  ]);
});
