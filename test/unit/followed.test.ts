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
  let look = () => {};
  const one = new FollowedConfig(path);
  one.watch(log, (milliseconds, task) => {
    expect(milliseconds).toBe(10_000);
    look = task;
    return () => {
      look = () => {};
    };
  });
  return { one, log, look: () => look() };
}

const EDITED = /config\.yaml" was edited and is not followed: restart the agent \(kubectl -n udp-fanout rollout/;

describe('a config that is followed', () => {
  test('as it was: nothing to say', () => {
    const { one, log, look } = followed();
    look();
    expect([one.deviation(), one.remarks(), log.lines]).toEqual([undefined, [], []]);
  });

  test('edited: a remark at once, one warning, and the end of both when it is undone', () => {
    const { one, log, look } = followed();
    writeFileSync(file, yaml(9001));
    for (let times = 0; times < 3; times++) look();
    expect(one.remarks()).toEqual([expect.stringMatching(EDITED)]);
    expect(one.remarks()[0]).toMatch(/^config: "/);
    expect(log.lines).toEqual([expect.stringMatching(/^WARN config ".*was edited and is not followed/)]);
    writeFileSync(file, yaml(9000));
    look();
    expect(one.remarks()).toEqual([]);
    expect(log.lines.slice(1)).toEqual(['INFO config is followed again']);
    writeFileSync(file, yaml(9002));
    look();
    expect(log.lines).toHaveLength(3);
  });

  test('is found edited by who asks, too', () => {
    const { one } = followed();
    writeFileSync(file, yaml(9001));
    expect(one.deviation()).toMatch(EDITED);
  });

  test('other words of the same meaning are no edit', () => {
    const { one } = followed();
    writeFileSync(file, `# a comment\n${yaml(9000)}\nmetrics: { enabled: false }\n`);
    expect(one.deviation()).toBeUndefined();
  });

  test('with a mistake: where it is', () => {
    const { one } = followed();
    writeFileSync(file, yaml(70_000));
    expect(one.deviation()).toMatch(
      /was edited, is not followed, and no agent would start with it: .*config\.yaml:3:11: /,
    );
    rmSync(file);
    expect(one.deviation()).toMatch(/no agent would start with it: .*no such file/);
  });

  test('a link to itself in its place: said, not thrown, and over when the file is back', () => {
    const { one, log, look } = followed();
    rmSync(file);
    symlinkSync('config.yaml', file);
    look();
    expect(one.remarks()).toEqual([expect.stringMatching(/no agent would start with it: .*cannot be read \(ELOOP\)/)]);
    expect(log.lines).toHaveLength(1);
    rmSync(file);
    writeFileSync(file, yaml(9000));
    look();
    expect(one.remarks()).toEqual([]);
    expect(log.lines.slice(1)).toEqual(['INFO config is followed again']);
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
    const { one } = followed(join(data, 'config.yaml'));
    expect(one.deviation()).toBeUndefined();
    symlinkSync('b', `${data}_tmp`);
    renameSync(`${data}_tmp`, data);
    expect(one.deviation()).toMatch(EDITED);
  });

  test('is not looked at any more once closed', () => {
    const { one, log, look } = followed();
    one.close();
    writeFileSync(file, yaml(9001));
    look();
    expect(log.lines).toEqual([]);
  });
});
