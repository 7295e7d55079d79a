/** A config file that is edited while an agent runs by it. */
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FollowedConfig } from '../../agent/config/followed.ts';
import { ConfigError } from '../../agent/config/load.ts';
import { aLog } from '../fake/words.ts';

const yaml = (port: number) => `listeners:
  - name: test
    bind: "0.0.0.0:${port}"
    interface: eth0
    downstream: [{ address: "10.0.1.10:9000" }]
`;

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'followed-'));
  file = join(folder, 'config.yaml');
  writeFileSync(file, yaml(9000));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** An agent's, whose looks are up to the test. */
function followed(path = file) {
  const log = aLog();
  const ports: number[] = [];
  let look = () => {};
  let seconds = 100;
  const one = new FollowedConfig(path);
  one.watch({
    log,
    clock: () => seconds,
    ticker: (milliseconds, task) => {
      expect(milliseconds).toBe(1000);
      look = () => {
        seconds++;
        task();
      };
      return () => {
        look = () => {};
      };
    },
    onChange: ({ listeners }) => ports.push(...listeners.map(({ bind }) => bind.port)),
  });
  return { one, log, ports, look: () => look() };
}

const REFUSED =
  /config\.yaml" was edited and is refused, the agent goes on by the config it had: .*config\.yaml:3:11: /;

describe('a config that is followed', () => {
  test('as it was: nothing to say', () => {
    const { one, log, ports, look } = followed();
    look();
    expect([one.deviation, one.remarks(), log.lines, ports]).toEqual([undefined, [], [], []]);
    expect(one.reload).toEqual({ successful: true, at: 100 });
  });

  test('edited: told once, with another digest', () => {
    const { one, log, ports, look } = followed();
    const before = one.digest;
    writeFileSync(file, yaml(9001));
    for (let times = 0; times < 3; times++) look();
    expect(ports).toEqual([9001]);
    expect(one.config.listeners[0]!.bind.port).toBe(9001);
    expect(one.digest).not.toBe(before);
    expect(log.lines).toEqual([expect.stringMatching(/^INFO following the edited config file=".*" listeners=1$/)]);
    expect(one.reload).toEqual({ successful: true, at: 101 });
  });

  test('other words of the same meaning are no change', () => {
    const { one, log, ports, look } = followed();
    writeFileSync(file, `# a comment\n${yaml(9000)}\nmetrics: { enabled: false }\n`);
    look();
    expect([ports, log.lines, one.deviation]).toEqual([[], [], undefined]);
  });

  test('asked for again: read though nobody has touched it', () => {
    const { one, log, ports } = followed();
    one.look(true);
    expect([ports, log.lines]).toEqual([[], [expect.stringMatching(/^INFO config is as it was file="/)]]);
  });

  test('with mistakes: refused whole, each said once, a remark until it is mended', () => {
    const { one, log, ports, look } = followed();
    writeFileSync(file, `${yaml(70_000)}    settings: { workers: -1 }\n`);
    for (let times = 0; times < 3; times++) look();
    expect(ports).toEqual([]);
    expect(one.remarks()).toEqual([expect.stringMatching(REFUSED)]);
    expect(log.lines.map((line) => /config\.yaml:(\d+):/.exec(line)?.[1])).toEqual(['3', '6']);
    expect(log.lines[0]).toMatch(/^ERROR the edited config is refused, the one before stays mistake="/);
    expect(one.reload).toEqual({ successful: false, at: 100 });
    writeFileSync(file, yaml(9000));
    look();
    expect([one.remarks(), ports]).toEqual([[], []]);
    expect(log.lines.at(-1)).toMatch(/^INFO config is as it was/);
    expect(one.reload.successful).toBe(true);
  });

  test('gone: refused, and followed again when it is back', () => {
    const { one, ports, look } = followed();
    rmSync(file);
    look();
    expect(one.deviation).toMatch(/goes on by the config it had: .*no such file/);
    writeFileSync(file, yaml(9002));
    look();
    expect([one.deviation, ports]).toEqual([undefined, [9002]]);
  });

  test('a link to itself in its place: said, not thrown, and over when the file is back', () => {
    const { one, look } = followed();
    rmSync(file);
    symlinkSync('config.yaml', file);
    look();
    expect(one.remarks()).toEqual([expect.stringMatching(/the config it had: .*cannot be read \(ELOOP\)/)]);
    rmSync(file);
    writeFileSync(file, yaml(9000));
    look();
    expect(one.remarks()).toEqual([]);
  });

  test('a link to itself from the start is a mistake in the config', () => {
    rmSync(file);
    symlinkSync('config.yaml', file);
    expect(() => new FollowedConfig(file)).toThrow(ConfigError);
  });

  test('the link of a ConfigMap’s mount that is swapped', () => {
    for (const [name, port] of [
      ['a', 9000],
      ['b', 9001],
    ] as const) {
      mkdirSync(join(folder, name));
      writeFileSync(join(folder, name, 'config.yaml'), yaml(port));
    }
    const data = join(folder, '..data');
    symlinkSync('a', data);
    const { ports, look } = followed(join(data, 'config.yaml'));
    look();
    expect(ports).toEqual([]);
    symlinkSync('b', `${data}_tmp`);
    renameSync(`${data}_tmp`, data);
    look();
    expect(ports).toEqual([9001]);
  });

  test('a file that an editor renames into its place', () => {
    const { ports, look } = followed();
    writeFileSync(`${file}~`, yaml(9001));
    renameSync(`${file}~`, file);
    look();
    expect(ports).toEqual([9001]);
  });

  test('is not looked at any more once closed', () => {
    const { one, log, look } = followed();
    one.close();
    writeFileSync(file, yaml(9001));
    look();
    expect(log.lines).toEqual([]);
  });
});
