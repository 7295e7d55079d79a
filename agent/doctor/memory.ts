/** Whether the config fits the memory that this container has. */
import { memoryNeed, memoryRemark } from '../memory-need.ts';
import { type Finding, ok, warn } from './finding.ts';
import type { Requirements } from './requirements.ts';

/** `limit`: the control group's, in bytes, infinite without one. */
export function memoryFindings(limit: number, { listeners }: Requirements): Finding[] {
  if (listeners.length === 0) return [];
  const { means, mend } = memoryRemark(memoryNeed(listeners), Number.isFinite(limit) ? limit : undefined);
  return [mend === undefined ? ok('memory', means) : warn('memory', means, mend)];
}
