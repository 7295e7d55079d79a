/** What a bench has to say: figures with their spread and targets, as a table for people and as JSON. */
import { cpus, release } from 'node:os';

export interface Target {
  readonly is: 'at least' | 'at most' | 'below';
  readonly value: number;
}

/** One quantity, measured once a round. */
export interface Figure {
  readonly what: string;
  readonly unit: string;
  readonly values: readonly number[];
  readonly target?: Target;
  /** Decimals worth printing; 2. */
  readonly decimals?: number;
}

export interface Report {
  readonly figures: readonly Figure[];
  /** Printed in place of the figures, where these are many of a kind: lines of cells, headings first. */
  readonly table?: readonly (readonly string[])[];
  /** How to read the figures. */
  readonly notes: readonly string[];
}

export interface BenchOptions {
  /** Path of another build of the BPF object, held against the one in dist/ in the same run. */
  readonly candidate?: string;
}

/** A question, and how it is answered. */
export interface Bench {
  readonly name: string;
  readonly question: string;
  /** A target that is missed is a failure, and no matter of the machine. */
  readonly strict?: boolean;
  run(options: BenchOptions): Promise<Report>;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Round by round, so that what disturbs a whole round does not disturb the result. */
export function eachRound(
  left: readonly number[],
  right: readonly number[],
  combine: (left: number, right: number) => number,
): number[] {
  return left.map((value, round) => combine(value, right[round]!));
}

export function isMet({ values, target }: Figure): boolean | undefined {
  if (!target) return undefined;
  const value = median(values);
  if (target.is === 'at least') return value >= target.value;
  return target.is === 'at most' ? value <= target.value : value < target.value;
}

/** The figures as lines of a table. */
export function tableOf({ figures, table, notes }: Report): string {
  const lines = table ? aligned(table, (column) => column > 0) : aligned(linesOf(figures), (column) => column === 1);
  return [...lines, ...notes.map((note) => `  ${note}`)].join('\n');
}

function linesOf(figures: readonly Figure[]): string[][] {
  const rows = figures.map((figure) => {
    const { what, unit, values, target, decimals = 2 } = figure;
    const text = (value: number) => value.toFixed(decimals);
    const wanted = target ? `${target.is} ${target.value}: ${isMet(figure) ? 'met' : 'MISSED'}` : '';
    const spread = `${text(Math.min(...values))} - ${text(Math.max(...values))}`;
    return [what, text(median(values)), unit, spread, wanted];
  });
  return [['', 'median', '', 'min - max', 'target'], ...rows];
}

function aligned(lines: readonly (readonly string[])[], isNumber: (column: number) => boolean): string[] {
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  return lines.map((line) => {
    const cells = line.map((cell, at) => (isNumber(at) ? cell.padStart(widths[at]!) : cell.padEnd(widths[at]!)));
    return `  ${cells.join('  ')}`.trimEnd();
  });
}

/** All reports and the machine they come from, for comparison by programs. */
export function jsonOf(reports: readonly (Report & Pick<Bench, 'name' | 'question'>)[]): string {
  const machine = { kernel: release(), cpu: cpus()[0]?.model, cpus: cpus().length, node: process.version };
  const benches = reports.map(({ name, question, figures, notes }) => ({
    name,
    question,
    figures: figures.map((figure) => ({
      ...figure,
      median: median(figure.values),
      min: Math.min(...figure.values),
      max: Math.max(...figure.values),
      met: isMet(figure),
    })),
    notes,
  }));
  return `${JSON.stringify({ when: new Date().toISOString(), machine, benches }, null, 2)}\n`;
}
