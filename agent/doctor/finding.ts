/** What doctor says: one line for each finding, in the words of the log and the docs. */

/** `fail`: the config will not do what it says. `warn`: it will, but not in all cases. */
export type Level = 'ok' | 'warn' | 'fail';

export interface Finding {
  readonly level: Level;
  /** What was looked at: `kernel`, `capability BPF`, `hook eth0`. */
  readonly what: string;
  /** What is, and what follows from it. */
  readonly means: string;
  /** What to do; absent where there is nothing. */
  readonly mend?: string;
}

export const ok = (what: string, means: string): Finding => ({ level: 'ok', what, means });
export const warn = (what: string, means: string, mend: string): Finding => ({ level: 'warn', what, means, mend });
export const fail = (what: string, means: string, mend: string): Finding => ({ level: 'fail', what, means, mend });

/** `ok    kernel: 6.12.0 has all that is needed`; `fail  interface eth9: …; name one that is there`. */
export function textOf({ level, what, means, mend }: Finding): string {
  const line = `${level.padEnd(4)}  ${what}: ${means}${mend === undefined ? '' : `; ${mend}`}`;
  return line.replaceAll(/\s*\n\s*/g, ' ');
}

/** True if nothing fails. */
export function isHealthy(findings: readonly Finding[]): boolean {
  return findings.every(({ level }) => level !== 'fail');
}
