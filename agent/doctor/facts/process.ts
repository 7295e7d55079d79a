/** What /proc says of the sysctls and mounts that this process sees (proc(5)). */
import { readFileSync } from 'node:fs';

/** The value of a sysctl by its path with slashes, since interface names may hold dots. */
export function readSysctl(path: string): string | undefined {
  return read(`/proc/sys/${path}`)?.trim();
}

export function isBpffsMounted(): boolean {
  return / \/sys\/fs\/bpf bpf /.test(read('/proc/self/mounts') ?? '');
}

/** The text of a file; undefined where it cannot be read. */
export function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
