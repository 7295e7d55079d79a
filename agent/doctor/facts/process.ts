/** What /proc says of this process and of the sysctls of its network namespace (proc(5)). */
import { readFileSync } from 'node:fs';

/** Bits of linux/capability.h. */
const CAPABILITIES = {
  NET_BIND_SERVICE: 10,
  NET_ADMIN: 12,
  NET_RAW: 13,
  SYS_ADMIN: 21,
  SYS_RESOURCE: 24,
  PERFMON: 38,
  BPF: 39,
};

/** The effective ones among those that matter to us, by name without CAP_. */
export function readCapabilities(): ReadonlySet<string> {
  const mask = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(read('/proc/self/status') ?? '')?.[1] ?? '0'}`);
  const names = Object.entries(CAPABILITIES).filter(([, bit]) => (mask & (1n << BigInt(bit))) !== 0n);
  return new Set(names.map(([name]) => name));
}

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
