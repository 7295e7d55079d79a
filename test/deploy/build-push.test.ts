/** k8s/build-push.sh up to the command that it would run. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { present } from '../../setup/packages.mjs';
import { K8S, ROOT, without } from './tools.ts';

const SCRIPT = join(K8S, 'build-push.sh');
const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };

function buildPush(args: readonly string[], environment: Readonly<Record<string, string>> = {}) {
  const { REGISTRY: _, OWNER: __, ...env } = process.env;
  const { status, stdout, stderr } = spawnSync(SCRIPT, args, {
    cwd: '/',
    encoding: 'utf8',
    env: { ...env, ...environment },
  });
  return { status, stdout: stdout.replaceAll('\\', ''), stderr };
}

const BOTH = '--platform linux/amd64,linux/arm64 ';
const CASES: readonly (readonly [args: string, wanted: readonly string[]])[] = [
  ['--registry ghcr.io --owner me', [BOTH, `--tag ghcr.io/me/udp-fanout:v${version} `, ' --push ']],
  ['--registry registry.example:5000/', [BOTH, `--tag registry.example:5000/udp-fanout:v${version} `, ' --push ']],
  ['--owner me --tag v9', ['--tag me/udp-fanout:v9 ', '--build-arg VERSION=v9 ']],
  ['--no-push', [BOTH, `--tag udp-fanout:v${version} `, ` --output type=oci,dest=dist/udp-fanout-v${version}.tar `]],
  ['--no-push --arm64-only', ['--platform linux/arm64 ', ' --load ']],
  ['--arm64-only --owner me', ['--platform linux/arm64 ', ' --push ']],
];

test.each(CASES)('%s', (args, wanted) => {
  const { status, stdout } = buildPush(['--dry-run', ...args.split(' ')]);
  expect(status).toBe(0);
  for (const part of ['docker buildx build ', '--build-arg REVISION=', ' --file - .', ...wanted]) {
    expect(stdout).toContain(part);
  }
});

test('registry and owner may come from the environment', () => {
  const { stdout } = buildPush(['--dry-run'], { REGISTRY: 'ghcr.io', OWNER: 'me' });
  expect(stdout).toContain(`--tag ghcr.io/me/udp-fanout:v${version} `);
});

test('the first stage runs on the building machine', () => {
  const { stdout } = buildPush(['--dry-run', '--no-push']);
  expect(stdout).toMatch(/FROM --platform=\$BUILDPLATFORM \$\{BASE\} AS build$/m);
});

test.each([
  ['--tag', '--tag wants a value'],
  ['--owner --no-push', '--owner wants a value'],
  ['--nope', 'unknown option --nope; --help has all'],
  ['--dry-run', 'push where to? want --registry or --owner, or --no-push'],
  ['--no-push --tag a/b', '--tag "a/b": want letters'],
])('%s: %s', (args, complaint) => {
  const { status, stderr } = buildPush(args.split(' '));
  expect(status).toBe(2);
  expect(stderr).toContain(complaint);
});

test('--help names every option', () => {
  const { status, stdout } = buildPush(['--help']);
  expect(status).toBe(0);
  const options = readFileSync(SCRIPT, 'utf8').match(/^ {4}(--[a-z0-9| -]+)[)]/gm) ?? [];
  const names = options.flatMap((line) => line.match(/--[a-z0-9-]+/g) ?? []);
  expect(names).toHaveLength(6);
  for (const name of names) expect(stdout).toContain(name);
});

test.skipIf(!present('shellcheck'))(`shellcheck has nothing to say${without('shellcheck')}`, () => {
  expect(spawnSync('shellcheck', [SCRIPT], { encoding: 'utf8' })).toMatchObject({ stdout: '', status: 0 });
});
