/** Other programs, run to their end, and what they keep for the next run. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

export const ROOT = join(import.meta.dirname, '..');

/** What may be kept from one run to the next: packages, file systems, whatever took long to build. */
export const CACHE = process.env.UDP_FANOUT_CACHE || join(ROOT, '.cache');

export interface Options {
  readonly env?: Readonly<Record<string, string>>;
  /** The project's root if absent. */
  readonly cwd?: string;
  /** A failure is no error: what it wrote until then is returned. */
  readonly mayFail?: boolean;
}

/** What it wrote to standard output; throws with all that it wrote if it fails. */
export function run(command: string, args: readonly string[], options: Options = {}): string {
  const { env = {}, cwd = ROOT, mayFail = false } = options;
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 1 << 28,
  });
  if (status === 0 || (mayFail && !error)) return stdout;
  const said = `${stdout ?? ''}${stderr ?? ''}`.trim().split('\n').slice(-30).join('\n');
  throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? `exit code ${status}`}\n${said}`);
}
