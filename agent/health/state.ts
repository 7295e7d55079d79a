/** What is known of a downstream, and how a round of probes changes it: pure. */

/** `unknown` counts as in use: nobody has asked yet, or nobody can. */
export type Condition = 'unknown' | 'up' | 'down';

/** How a round ended: `unsent` means that no probe left this host, which says nothing about the downstream. */
export const OUTCOMES = ['answered', 'unanswered', 'unsent'] as const;
export type Outcome = (typeof OUTCOMES)[number];

export interface HealthState {
  readonly condition: Condition;
  readonly last?: Outcome;
  /** Rounds in a row that ended as the last one did. */
  readonly streak: number;
}

export interface Thresholds {
  /** Unanswered rounds in a row that take a downstream out. */
  readonly fall: number;
  /** Answered rounds in a row that bring it back. */
  readonly rise: number;
}

/** Where every downstream starts. */
export const UNKNOWN: HealthState = { condition: 'unknown', streak: 0 };

/** Where one starts that an agent before this one did not use: out, until it has answered once. */
export function outBefore({ rise }: Pick<Thresholds, 'rise'>): HealthState {
  return { condition: 'down', last: 'answered', streak: rise - 1 };
}

/** The state after one more round. */
export function afterRound(before: HealthState, outcome: Outcome, thresholds: Thresholds): HealthState {
  const streak = outcome === before.last ? before.streak + 1 : 1;
  return { condition: conditionAfter(before.condition, outcome, streak, thresholds), last: outcome, streak };
}

function conditionAfter(before: Condition, outcome: Outcome, streak: number, { fall, rise }: Thresholds): Condition {
  switch (outcome) {
    case 'answered':
      return before === 'down' && streak < rise ? 'down' : 'up';
    case 'unanswered':
      return streak < fall ? before : 'down';
    case 'unsent':
      return 'unknown';
  }
}
