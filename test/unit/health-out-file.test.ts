/** What an agent leaves of downstreams that are out, in real files, and what the next one makes of it. */
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
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
  const open = (file = path) => new OutFile({ log, path: file, now: () => clock.now, timer: () => () => {} });
  /** Where these are out. */
  const health = (...out: (typeof ONE)[]) => ({
    listeners: () => [LISTENER],
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

test('a listener whose endpoints are not known yet keeps what was out, for ten minutes', () => {
  const now = rig();
  const { open, known, clock } = now;
  left(now);
  const second = open();
  const waiting = { listeners: () => [LISTENER], endpoints: () => [] };
  const write = () => {
    second.changed();
    second.write(waiting);
  };
  write();
  expect([known(second), known(open())]).toEqual([
    [true, false],
    [true, false],
  ]);
  clock.now += 599;
  write();
  expect([known(second), known(open())]).toEqual([
    [true, false],
    [true, false],
  ]);
  clock.now += 1;
  write();
  expect([known(second), known(open())]).toEqual([
    [false, false],
    [false, false],
  ]);
});

test('what was out is so until the agent has the endpoints itself, and of listeners of the config', () => {
  const now = rig();
  const { open, known, health, clock } = now;
  left(now);
  const second = open();
  clock.now += 60;
  second.write(health(ONE));
  expect([known(second), known(open())]).toEqual([
    [false, false],
    [true, false],
  ]);
  const third = open();
  third.changed();
  third.write({ listeners: () => [], endpoints: () => [] });
  expect([known(third), known(open())]).toEqual([
    [false, false],
    [false, false],
  ]);
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

test('a pipe, a link and a file without end are not read', () => {
  const now = rig();
  const { open, known, path } = now;
  left(now);
  const kept = `${path}.kept`;
  renameSync(path, kept);
  const others = [
    () => execFileSync('mkfifo', [path]),
    () => symlinkSync(kept, path),
    () => mkdirSync(path),
    () => {
      writeFileSync(path, readFileSync(kept));
      truncateSync(path, (4 << 20) + 1);
    },
  ];
  for (const make of others) {
    make();
    expect(known(open())).toEqual([false, false]);
    rmSync(path, { recursive: true });
  }
  renameSync(kept, path);
  expect(known(open())).toEqual([true, false]);
});

test('a link in the place of the draft leads nobody astray', () => {
  const now = rig();
  const { folder, path, open, known } = now;
  mkdirSync(join(folder, 'run'));
  const other = join(folder, 'other');
  writeFileSync(other, 'theirs');
  symlinkSync(other, `${path}.new`);
  left(now);
  expect([readFileSync(other, 'utf8'), known(open())]).toEqual(['theirs', [true, false]]);
});

test('where it cannot be written that is said once, and tried again every minute', () => {
  const { folder, open, health, log, clock, known } = rig();
  const path = join(folder, 'missing/run/out.json');
  const file = open(path);
  const write = (seconds: number, ...out: (typeof ONE)[]) => {
    clock.now += seconds;
    file.changed();
    file.write(health(...out));
  };
  write(0, ONE);
  write(60, OTHER);
  expect(log.lines).toEqual([
    expect.stringMatching(
      /^INFO downstreams that are out will not be known after a restart in mode userspace error=".*ENOENT/,
    ),
  ]);
  mkdirSync(join(folder, 'missing'));
  write(59, OTHER);
  expect(existsSync(path)).toBe(false);
  clock.now += 1;
  // Though nothing has changed since.
  file.write(health(OTHER));
  expect([known(open(path)), log.lines.slice(1)]).toEqual([
    [false, true],
    ['INFO downstreams that are out will be known after a restart again'],
  ]);
  file.close(health(OTHER));
});
