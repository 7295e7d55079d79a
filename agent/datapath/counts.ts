/** Datagrams by a name: a downstream, a reason. */
export type Counts = ReadonlyMap<string, number>;

/** Both together. */
export function sum(a: Counts, b: Counts): Map<string, number> {
  const sums = new Map(a);
  for (const [key, count] of b) sums.set(key, (sums.get(key) ?? 0) + count);
  return sums;
}
