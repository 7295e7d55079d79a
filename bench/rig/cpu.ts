/** One CPU for all that is measured: what runs there was started there, and nothing else gets in between. */
import { constants, cpus, setPriority } from 'node:os';
import { onCpu } from '../../lab/libc.ts';

/** The last one: the first has more of the machine's interrupts. */
const MEASURED = cpus().length - 1;

/** Runs `work` on the measured CPU before all ordinary processes, which wait or go to another one meanwhile. */
export function measured<T>(work: () => T): T {
  setPriority(constants.priority.PRIORITY_HIGHEST);
  try {
    return onCpu(MEASURED, work);
  } finally {
    setPriority(constants.priority.PRIORITY_NORMAL);
  }
}
