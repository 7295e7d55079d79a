/** The bench's programs in C: compiled when the bench starts. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { present } from '../../setup/packages.mjs';

/** Compiles `bench/userspace/NAME.c` into `directory`, once, and returns the program's path; throws cc's words. */
export function compiled(name: 'flood' | 'latency' | 'reference', directory: string): string {
  const program = join(directory, name);
  if (existsSync(program)) return program;
  const flags = ['-O2', '-Wall', '-Wextra', '-Werror'];
  const source = join(import.meta.dirname, `${name}.c`);
  execFileSync(present('cc') ? 'cc' : 'clang', [...flags, '-o', program, source], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return program;
}
