/** A BPF program of the bench: compiled when the bench starts, loaded, its maps by name. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { check } from '../../agent/ffi/errno.ts';
import * as libbpf from '../../agent/ffi/libbpf.ts';
import type { Namespace } from '../../lab/namespace.ts';
import { BPF_FLAGS } from '../../setup/build.mjs';

export interface LoadedProgram {
  readonly fd: number;
  /** Descriptor of a map by its name or, for global variables, the end of it: `.bss`. */
  map(name: string): number;
}

/** Compiles `bench/rig/NAME.bpf.c` into `directory` and loads the program NAME; throws SystemError or clang's words. */
export function loadProgram(name: string, directory: string): LoadedProgram {
  const object = join(directory, `${name}.bpf.o`);
  if (!existsSync(object)) compile(join(import.meta.dirname, `${name}.bpf.c`), object);
  const opened = libbpf.objectOpen(object);
  const maps = libbpf.objectMaps(opened);
  check(`load of ${name}.bpf.o`, libbpf.objectLoad(opened), libbpf.kernelLog().trim());
  const fd = libbpf.programFd(opened, name);
  if (fd === undefined) throw new Error(`${name}.bpf.o: no program "${name}" in it`);
  return {
    fd,
    map: (wanted) => {
      const found = maps.find((map) => map.name === wanted || map.name.endsWith(wanted));
      if (!found)
        throw new Error(`${name}.bpf.o: no map "${wanted}", it has ${maps.map((map) => map.name).join(', ')}`);
      return libbpf.mapFd(found);
    },
  };
}

/** Attaches a program to the ingress of an interface; it goes with the interface. */
export function attachIngress(namespace: Namespace, ifindex: number, program: LoadedProgram): void {
  const hook = { ifindex, attach_point: libbpf.BPF.TC_INGRESS };
  namespace.inside(() => {
    check('clsact', libbpf.tcHookCreate(hook));
    const options = { prog_fd: program.fd, flags: 0, prog_id: 0, handle: 0, priority: 0 };
    check('attach', libbpf.tcAttach(hook, options));
  });
}

function compile(source: string, object: string): void {
  execFileSync('clang', [...BPF_FLAGS, '-c', source, '-o', object], { stdio: ['ignore', 'inherit', 'inherit'] });
}
