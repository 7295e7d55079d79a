/** STATS read for people: per-CPU counters summed, by the names of bpf/udp_fanout.h. */
import { encodeU32, type Fate, LAYOUT, TEARS, VERDICTS } from './abi.ts';
import type { BpfMap } from './bpf.ts';

const WORDS = LAYOUT.stats.size / 8;

/** One listener's row of STATS over all CPUs. */
export interface Totals {
  readonly received: number;
  readonly forwarded: number;
  readonly bytesReceived: number;
  readonly bytesForwarded: number;
  readonly toSafetyNet: ReadonlyMap<string, number>;
  readonly dropped: ReadonlyMap<string, number>;
  readonly passed: ReadonlyMap<string, number>;
  readonly torn: ReadonlyMap<string, number>;
}

export function readTotals(stats: BpfMap, row: number, cpus: number): Totals {
  const bytes = new Uint8Array(LAYOUT.stats.size * cpus);
  stats.get(encodeU32(row), bytes);
  const words = new BigUint64Array(bytes.buffer);
  const sum = (offset: number) => {
    let total = 0;
    for (let cpu = 0; cpu < cpus; cpu++) total += Number(words[cpu * WORDS + offset / 8]);
    return total;
  };
  const verdict = (index: number) => sum(LAYOUT.stats.forwarded + index * 8);
  const by = (fate: Fate) =>
    new Map(VERDICTS.flatMap(({ name, fate: is }, index) => (is === fate ? [[name, verdict(index)] as const] : [])));
  return {
    received: sum(LAYOUT.stats.pkts_received),
    forwarded: sum(LAYOUT.stats.pkts_forwarded),
    bytesReceived: sum(LAYOUT.stats.bytes_received),
    bytesForwarded: sum(LAYOUT.stats.bytes_forwarded),
    toSafetyNet: by('HANDED'),
    dropped: by('DROPPED'),
    passed: by('PASSED'),
    torn: new Map(TEARS.map((name, index) => [name, sum(LAYOUT.stats.torn + index * 8)])),
  };
}

/**
 * Makes a listener's row, with all counters at zero. Each CPU's walk starts at another slot, so that a few datagrams on
 * many CPUs do not all meet the first downstream.
 */
export function openRow(stats: BpfMap, row: number, cpus: number): void {
  const bytes = new Uint8Array(LAYOUT.stats.size * cpus);
  const words = new Uint32Array(bytes.buffer);
  for (let cpu = 0; cpu < cpus; cpu++) {
    words.fill(cpu, (cpu * LAYOUT.stats.size + LAYOUT.stats.next_slot) / 4, (cpu + 1) * (LAYOUT.stats.size / 4));
  }
  stats.put(encodeU32(row), bytes);
}
