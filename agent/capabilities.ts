/** What this process may do (capabilities(7)), asked only to explain a refusal. */
import { readFileSync } from 'node:fs';

/** Bits of linux/capability.h. */
const BITS = { NET_ADMIN: 12, NET_RAW: 13, SYS_ADMIN: 21, PERFMON: 38, BPF: 39 } as const;
export type Capability = keyof typeof BITS;

/** Those of `wanted` that this process lacks; SYS_ADMIN stands in for BPF and PERFMON, as it does in the kernel. */
export function missingCapabilities(wanted: readonly Capability[]): Capability[] {
  const effective = BigInt(
    `0x${/^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`,
  );
  const has = (name: Capability) => (effective & (1n << BigInt(BITS[name]))) !== 0n;
  return wanted.filter((name) => !has(name) && !((name === 'BPF' || name === 'PERFMON') && has('SYS_ADMIN')));
}
