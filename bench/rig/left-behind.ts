/** What restarts without end leave on a machine: nothing more than one of them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { dualStack } from '../../lab/dual-stack.ts';
import { ON_THE_KERNEL_PATH } from '../../lab/interruptions.ts';
import type { Figure } from '../report.ts';

const ROUNDS = 30;
const MOST_GROWTH = 1.2;

/** After 30 kills, against what was there after one. */
export async function leftBehind(): Promise<{
  readonly figures: readonly Figure[];
  readonly notes: readonly string[];
}> {
  using lab = dualStack({ vlan: false });
  const { succession } = await ON_THE_KERNEL_PATH[0]!.prepare(lab);
  await succession.next('SIGKILL');
  const first = await succession.footprint();
  for (let round = 1; round < ROUNDS; round++) await succession.next('SIGKILL');
  const last = await succession.footprint();
  // What is freed is so after a grace period.
  await sleep(1000);
  const stale = succession.stale();
  await succession.agent.stop();
  const zero = { is: 'at most', value: 0 } as const;
  const count = (what: string, value: number): Figure => ({
    what,
    unit: '',
    values: [value],
    decimals: 0,
    target: zero,
  });
  const growth = last.rss / first.rss;
  const figures = [
    count(`descriptors more after ${ROUNDS} kills`, last.descriptors - first.descriptors),
    count(`programs more after ${ROUNDS} kills`, last.programs - first.programs),
    count(`maps more after ${ROUNDS} kills`, last.maps - first.maps),
    count(`programs and tables of dead agents after ${ROUNDS} kills`, stale.programs.length + stale.maps.length),
    {
      what: `RSS after ${ROUNDS} kills, to that after one`,
      unit: '',
      values: [growth],
      target: { is: 'at most', value: MOST_GROWTH } as const,
    },
  ];
  const says = ({ what, values }: Figure) => `${what}: ${values[0]!.toFixed(2).replace('.00', '')}`;
  return { figures, notes: figures.map((figure) => says(figure)) };
}
