/** What this process may do (capabilities(7)). */
import { readFileSync } from 'node:fs';

/** Bits of linux/capability.h: those that matter to us. */
const BITS = {
  NET_BIND_SERVICE: 10,
  NET_ADMIN: 12,
  NET_RAW: 13,
  SYS_ADMIN: 21,
  SYS_RESOURCE: 24,
  PERFMON: 38,
  BPF: 39,
} as const;
export type Capability = keyof typeof BITS;

/** The effective ones, by name without CAP_. */
export function effectiveCapabilities(): ReadonlySet<string> {
  const mask = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`);
  const bits = Object.entries(BITS).filter(([, bit]) => (mask & (1n << BigInt(bit))) !== 0n);
  return new Set(bits.map(([name]) => name));
}

/** True if it is among them; SYS_ADMIN stands in for BPF and PERFMON, as it does in the kernel. */
export function hasCapability(effective: ReadonlySet<string>, name: string): boolean {
  return effective.has(name) || ((name === 'BPF' || name === 'PERFMON') && effective.has('SYS_ADMIN'));
}

/** Those of `wanted` that this process lacks: asked only to explain a refusal. */
export function missingCapabilities(wanted: readonly Capability[]): Capability[] {
  const effective = effectiveCapabilities();
  return wanted.filter((name) => !hasCapability(effective, name));
}
