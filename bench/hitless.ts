/** Whether any datagram notices what happens to the agent, and what many restarts leave behind. */
import { setTimeout as sleep } from 'node:timers/promises';
import { dualStack } from '../lab/dual-stack.ts';
import { flowsOf, IN_USERSPACE, type Interruption, ON_THE_KERNEL_PATH } from '../lab/interruptions.ts';
import { type Outcome, Trial } from '../lab/trial.ts';
import type { Bench, Figure, Report } from './report.ts';
import { leftBehind } from './rig/left-behind.ts';

/** Datagrams a second; what is used is the first that the machine carries in both families while nothing happens. */
const RATES = [100_000, 75_000, 50_000, 35_000, 25_000, 15_000, 10_000, 5000];
const PROBE_MS = 3000;

/** What may not happen, and how often it did. */
const FAULTS: Readonly<Record<string, (row: Row) => number>> = {
  lost: ({ of, outcome: { missing, full, refused } }) => missing - full - (of.refuses ? refused : 0),
  doubled: ({ outcome }) => outcome.doubled,
  'to a removed one': ({ outcome }) => outcome.late,
  'other source': ({ outcome }) => outcome.strange,
  'ICMP errors': ({ of, outcome }) => (of.refuses ? 0 : outcome.icmp),
  'counters back': ({ backwards }) => backwards,
};

/** An interruption under one family's datagrams. */
interface Row {
  readonly of: Interruption;
  readonly outcome: Outcome;
  readonly backwards: number;
}

export const hitless: Bench = {
  name: 'hitless',
  question:
    'is a datagram lost, doubled or misled while agents are killed, stopped, upgraded, reloaded, tables swapped?',
  strict: true,
  run,
};

async function run(): Promise<Report> {
  const rows: Row[] = [];
  for (const interruptions of [ON_THE_KERNEL_PATH, IN_USERSPACE]) {
    const rate = await carried(interruptions[0]!);
    for (const of of interruptions) {
      for (const flow of [0, 1]) {
        const row = await interrupted(of, flow, rate);
        // It takes minutes.
        process.stderr.write(`  ${cellsOf(row).join('  ')}\n`);
        rows.push(row);
      }
    }
  }
  const { figures, notes } = await leftBehind();
  return {
    figures: [...rows.flatMap(figuresOf), ...figures],
    table: tableOf(rows),
    notes: [...notesOn(rows), ...notes],
  };
}

/** Throws where the machine carries none of the rates. */
async function carried(of: Interruption): Promise<number> {
  const quiet: Interruption = { ...of, times: 1, prepare: (lab) => of.prepare(lab).then(waits) };
  for (const rate of RATES) {
    const rows = [await interrupted(quiet, 0, rate), await interrupted(quiet, 1, rate)];
    if (rows.every(({ outcome: { missing, sent, ms } }) => missing === 0 && sent / ms > 0.00095 * rate)) return rate;
  }
  throw new Error(`this machine does not carry ${RATES.at(-1)} numbered datagrams a second, though nothing happens`);
}

function waits({ succession }: Awaited<ReturnType<Interruption['prepare']>>) {
  return { succession, round: () => sleep(PROBE_MS) };
}

async function interrupted(of: Interruption, flow: number, rate: number): Promise<Row> {
  using lab = dualStack({ vlan: false });
  const { succession, round } = await of.prepare(lab);
  using trial = await Trial.begin({ ...lab, flows: [flowsOf(lab)[flow]!], rate });
  for (let at = 0; at < of.times; at++) {
    await round({ succession, trial, lab }, at);
    await trial.fetch();
  }
  await succession.count();
  const [outcome] = await trial.end();
  const backwards = succession.backwards.length;
  await succession.agent.stop();
  return { of, outcome: outcome!, backwards };
}

const titleOf = ({ of, outcome }: Row) => `${of.what}, IPv${outcome.family}`;
const paceOf = ({ outcome: { sent, ms } }: Row) => sent / ms;

function figuresOf(row: Row): Figure[] {
  const what = titleOf(row);
  return [
    { what: `${what}: pace`, unit: 'k/s', values: [paceOf(row)], decimals: 0 },
    { what: `${what}: sent`, unit: '', values: [row.outcome.sent], decimals: 0 },
    ...Object.entries(FAULTS).map(([fault, count]): Figure => {
      const target = { is: 'at most', value: 0 } as const;
      return { what: `${what}: ${fault}`, unit: '', values: [count(row)], decimals: 0, target };
    }),
  ];
}

function cellsOf(row: Row): string[] {
  return [
    titleOf(row),
    ...[row.of.times, Math.round(paceOf(row)), row.outcome.sent].map(String),
    ...Object.values(FAULTS).map((count) => String(count(row))),
  ];
}

function tableOf(rows: readonly Row[]): string[][] {
  return [['', 'times', 'k/s', 'sent', ...Object.keys(FAULTS)], ...rows.map(cellsOf)];
}

function notesOn(rows: readonly Row[]): string[] {
  const full = rows.filter(({ outcome }) => outcome.full > 0);
  const refusing = rows.filter(({ of }) => of.refuses);
  return [
    'To a removed one: handed over after the agent had said that the table without it is in use.',
    ...full.map(
      (row) => `${titleOf(row)}: ${row.outcome.full} found a receiver’s buffer full, which is the bench’s own.`,
    ),
    ...refusing.map((row) => `${titleOf(row)}: ${row.outcome.refused} were refused while there was no agent.`),
  ];
}
