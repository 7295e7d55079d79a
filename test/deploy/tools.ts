/** Programs that these tests use where the machine has them; where it has not, the test's name says why it is skipped. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { present } from '../../setup/packages.mjs';

export const ROOT = join(import.meta.dirname, '../..');
export const K8S = join(ROOT, 'k8s');

/** The end of a test's name: empty, or why it is skipped. */
export function without(tool: string, why = 'is not on this machine'): string {
  return present(tool) ? '' : ` (skipped: ${tool} ${why})`;
}

/** Runs a program to its end and returns what it wrote to standard output; throws with what it wrote to standard error. */
export function output(command: string, args: readonly string[], input?: string): string {
  return execFileSync(command, args, {
    cwd: ROOT,
    encoding: 'utf8',
    stdio: 'pipe',
    ...(input !== undefined && { input }),
  });
}
