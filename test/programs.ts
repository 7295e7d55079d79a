/** Other programs, run to their end, and what they keep for the next run. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
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

/** True if the program, or the file where it is a path, is on this machine. */
export function has(command: string): boolean {
  return command.startsWith('/') ? existsSync(command) : spawnSync('sh', ['-c', `command -v ${command}`]).status === 0;
}

/**
 * Fetches by apt what is missing; `needed` has for each program the Debian package that brings it. Returns why that
 * cannot be, or undefined when all is there.
 */
export function install(needed: Readonly<Record<string, string>>): string | undefined {
  const missing = Object.keys(needed).filter((program) => !has(program));
  if (missing.length === 0) return undefined;
  const packages = [...new Set(missing.map((program) => needed[program]!))];
  if (process.getuid?.() !== 0 || !has('apt-get'))
    return `${missing.join(', ')} missing: install what Debian calls ${packages.join(' ')}`;
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  run('apt-get', ['update', '-qq'], { env, mayFail: true });
  run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...packages], { env });
  const still = missing.filter((program) => !has(program));
  return still.length === 0 ? undefined : `${still.join(', ')} still missing after installing ${packages.join(' ')}`;
}
