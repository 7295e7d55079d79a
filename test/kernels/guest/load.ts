/** Whether this kernel's verifier accepts an object, and at what price. */
import * as libbpf from '../../../agent/ffi/libbpf.ts';
import { lastWords } from '../../../agent/kernel/refusal.ts';

export interface Loaded {
  readonly accepted: boolean;
  /** Instructions that the verifier walked through, on all branches together. */
  readonly instructions?: number;
  /** Its last words, where it refused. */
  readonly refusal?: string;
}

/** Loads an object file and lets go of it again. */
export function load(path: string): Loaded {
  const object = libbpf.objectOpen(path);
  try {
    const result = libbpf.objectLoad(object);
    const said = libbpf.kernelLog();
    if (result < 0) return { accepted: false, refusal: lastWords(said) || `errno ${-result}` };
    const instructions = /processed (\d+) insns/.exec(said)?.[1];
    if (instructions === undefined) throw new Error(`${path}: loaded, but the verifier said "${said}"`);
    return { accepted: true, instructions: Number(instructions) };
  } finally {
    libbpf.objectClose(object);
  }
}
