/** What runs in the machine: loads the objects, then the tests that the environment names. */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { release, uptime } from 'node:os';
import { join } from 'node:path';
import { load } from './load.ts';
import { say } from './words.ts';

const OBJECTS = 'objects';

say({ kind: 'up', release: release(), seconds: uptime() });
let loaded = 0;
for (const file of readdirSync(OBJECTS).sort()) {
  const result = load(join(OBJECTS, file));
  loaded += Number(result.accepted);
  say({ kind: 'load', object: file.replace('.o', ''), ...result });
}
const tests = (process.env.GUEST_TESTS ?? '').split(':').filter(Boolean);
say({ kind: 'end', loaded, ...(tests.length > 0 && vitest(tests)), seconds: uptime() });

function vitest(files: readonly string[]): { readonly fault?: string } {
  const reporter = join(import.meta.dirname, 'reporter.ts');
  const args = ['node_modules/vitest/vitest.mjs', 'run', '--no-color', `--reporter=${reporter}`, ...files];
  const env = { ...process.env, CI: 'true' };
  const { status, signal } = spawnSync(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'], env });
  return status === 0 ? {} : { fault: signal ?? `exit code ${status}` };
}
