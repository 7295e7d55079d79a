/** Where the datagrams end: counted and dropped as soon as they come in. */
import { check } from '../../agent/ffi/errno.ts';
import * as libbpf from '../../agent/ffi/libbpf.ts';
import { interfaceIndex } from '../../lab/libc.ts';
import type { Namespace } from '../../lab/namespace.ts';
import { attachIngress, loadProgram } from './program.ts';

const FIRST = new Uint8Array(4);

export interface Arrivals {
  readonly datagrams: number;
  /** Of those that came while the sink verified: with a checksum that is missing or wrong. */
  readonly wrong: number;
}

export class Sink {
  readonly #arrivals: number;
  readonly #verify: number;

  /** Puts a sink on the ingress of an interface; `directory` holds the compiled object. */
  constructor(namespace: Namespace, name: string, directory: string) {
    const program = loadProgram('sink', directory);
    this.#arrivals = program.map('ARRIVALS');
    this.#verify = program.map('.bss');
    attachIngress(
      namespace,
      namespace.inside(() => interfaceIndex(name)),
      program,
    );
  }

  verify(on: boolean): void {
    check('verify', libbpf.mapUpdate(this.#verify, FIRST, new Uint8Array(new Uint32Array([Number(on)]).buffer)));
  }

  read(): Arrivals {
    const cpus = libbpf.possibleCpus();
    const words = new BigUint64Array(2 * cpus);
    check('arrivals', libbpf.mapLookup(this.#arrivals, FIRST, new Uint8Array(words.buffer)));
    const sum = (first: number) => words.reduce((total, word, at) => total + (at % 2 === first ? Number(word) : 0), 0);
    return { datagrams: sum(0), wrong: sum(1) };
  }
}
