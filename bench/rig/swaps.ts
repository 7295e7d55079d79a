/** Watches an agent's slot tables from outside: the kernel tells which table a listener has at any moment. */
import { readdirSync, readFileSync } from 'node:fs';
import type { Family } from '../../agent/address.ts';
import { encodeU32, tableIndex } from '../../agent/datapath/tc/abi.ts';
import { check } from '../../agent/ffi/errno.ts';
import * as libbpf from '../../agent/ffi/libbpf.ts';
import { mapById } from '../../lab/loaded-program.ts';
import { sleepSync } from '../../lab/processes.ts';

/** BPF_MAP_TYPE_ARRAY_OF_MAPS of uapi/linux/bpf.h: the agent has one, that of its tables. */
const ARRAY_OF_MAPS = 12;

export class TableWatch {
  readonly #fd: number;
  readonly #key: Uint8Array;
  readonly #value = new Uint8Array(4);

  constructor(pid: number, listener: number, family: Family) {
    this.#fd = mapById(tablesOf(pid)).fd;
    this.#key = encodeU32(tableIndex(listener, family));
  }

  /** The kernel's id of the table that datagrams meet now. */
  current(): number {
    check('bpf_map_lookup_elem', libbpf.mapLookup(this.#fd, this.#key, this.#value));
    return new DataView(this.#value.buffer).getUint32(0, true);
  }

  /** Blocks until another table than `old` is there, at most `ms`; returns when that was, in milliseconds since 1970. */
  swapped(old: number, ms: number): number {
    const deadline = performance.now() + ms;
    while (performance.now() < deadline) {
      if (this.current() !== old) return performance.timeOrigin + performance.now();
      sleepSync(0.1);
    }
    throw new Error(`no other table within ${ms} ms`);
  }
}

/** From the descriptors that the process has open (proc_pid_fdinfo(5)). */
function tablesOf(pid: number): number {
  for (const fd of readdirSync(`/proc/${pid}/fdinfo`)) {
    const text = readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8');
    if (Number(/^map_type:\s+(\d+)/m.exec(text)?.[1]) !== ARRAY_OF_MAPS) continue;
    return Number(/^map_id:\s+(\d+)/m.exec(text)![1]);
  }
  throw new Error(`process ${pid} has no map of tables`);
}
