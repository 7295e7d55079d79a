/** What is in the image and what is not. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, run } from '../programs.ts';
import type { ImageConfig } from './builder.ts';
import type { Check } from './run.ts';

const LARGEST = 320e6;
const FOLDERS = ['usr/local/bin', 'usr/local/sbin', 'usr/bin', 'usr/sbin', 'bin', 'sbin'];
const TOOLS = ['sleep', 'ip', 'tc', 'bpftool', 'tcpdump', 'ping', 'uname', 'node', 'udp-fanout'];
const ABSENT = [
  'npm',
  'npx',
  'gcc',
  'cc',
  'g++',
  'c++',
  'clang',
  'ld',
  'as',
  'make',
  'python3',
  'node-gyp',
  'curl',
  'git',
];

/** Bytes of the files, as `du` counts what they take. */
export function sizeOf(root: string): number {
  return Number(run('du', ['--summarize', '--block-size=1', root]).split('\t')[0]);
}

export function contents(root: string, config: ImageConfig): readonly Check[] {
  const finds = (tool: string) => FOLDERS.some((folder) => existsSync(join(root, folder, tool)));
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  const app = (path: string) => join(root, 'opt/udp-fanout', path);
  return [
    [
      `at most ${LARGEST / 1e6} MB unpacked: ${Math.round(sizeOf(root) / 1e6)} MB`,
      () => assert.ok(sizeOf(root) <= LARGEST),
    ],
    [
      `has ${TOOLS.join(', ')}`,
      () =>
        assert.deepEqual(
          TOOLS.filter((tool) => !finds(tool)),
          [],
        ),
    ],
    [`has none of ${ABSENT.join(', ')}`, () => assert.deepEqual(ABSENT.filter(finds), [])],
    [
      'has no sources, tests or modules but native ones',
      () => {
        const there = run('ls', [app('.'), app('node_modules')]).split(/\s+/);
        const known = ['LICENSE', 'dist', 'node_modules', 'package.json', '@koromix', 'koffi', 'raw-socket'];
        assert.deepEqual(
          there.filter((name) => name !== '' && !name.endsWith(':') && !known.includes(name)),
          [],
        );
      },
    ],
    [
      'has koffi for one architecture',
      () =>
        assert.equal(
          run('ls', [app('node_modules/@koromix')])
            .trim()
            .split('\n').length,
          1,
        ),
    ],
    ['has the BPF object', () => assert.ok(existsSync(app('dist/udp_fanout.bpf.o')))],
    [
      'starts as the manifests expect',
      () => {
        assert.deepEqual(config.Entrypoint, ['udp-fanout']);
        assert.deepEqual(config.Cmd, ['--config', '/etc/udp-fanout/config.yaml']);
        assert.equal(config.User, '0');
      },
    ],
    [
      'says what it is',
      () => {
        for (const name of ['title', 'description', 'licenses', 'version', 'revision', 'created', 'base.name']) {
          assert.ok(config.Labels[`org.opencontainers.image.${name}`], `label ${name}`);
        }
        assert.equal(config.Labels['org.opencontainers.image.version'], version);
      },
    ],
  ];
}
