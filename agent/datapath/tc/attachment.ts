/** Our program on an interface, whatever the hook: one file for each, here only what they have in common. */
import { SystemError } from '../../ffi/errno.ts';
import { attachRefusal, type ObjectFile } from '../../kernel/refusal.ts';

/** A loaded program. */
export interface Program {
  readonly fd: number;
  /** The kernel's id, as in `bpftool prog show`. */
  readonly id: number;
}

/** Whoever opens it owns it, until it is detached or let go of. */
export interface Attachment {
  /** Whether our program is still there: anybody may remove it. Throws SystemError. */
  holds(): boolean;
  /** Puts another program in the place of ours; no datagram passes between the two. Throws SystemError. */
  replace(program: Program): void;
  /** Takes our program off the interface; what is gone already is as good as detached. Throws SystemError. */
  detach(): void;
  /** Lets go of it and leaves it at work. */
  release(): void;
}

/** Why an attachment failed, in the words of the guide. */
export function attachFailure(file: ObjectFile, error: unknown): string {
  if (error instanceof SystemError) return attachRefusal(file, error);
  return `failed to attach TC program: ${(error as Error).message}`;
}
