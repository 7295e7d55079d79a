/** The clsact hook: filters that are found again, replaced in place, removed; never anybody else's, nor the qdisc. */
import { constants } from 'node:os';
import { check } from '../../ffi/errno.ts';
import * as libbpf from '../../ffi/libbpf.ts';
import type { Filter } from '../../netlink/filter.ts';
import type { Host } from '../../netlink/host.ts';
import type { Interface } from '../datapath.ts';
import type { Attachment, Program } from './attachment.ts';
import type { Bpf } from './bpf.ts';
import { PROGRAM } from './object.ts';

const { EEXIST, ENOENT, EINVAL, ENODEV } = constants.errno;

/** Lists the ingress filters of an interface; empty where there are none or the interface is gone. */
export type ListFilters = (ifindex: number) => readonly Filter[];

const hook = (ifindex: number): libbpf.TcHook => ({ ifindex, attach_point: libbpf.BPF.TC_INGRESS });

/**
 * Puts the program on the interface, in the place of what a dead agent left there; twins of that are removed. Throws
 * SystemError.
 */
export function attachClsact(program: Program, link: Interface, list: ListFilters, bpf: Bpf = libbpf): Attachment {
  const [current, ...twins] = list(link.index).filter(isOurs);
  for (const twin of twins) remove(bpf, link.index, twin);
  const attachment = new ClsactFilter(bpf, link, list, program);
  if (!current) {
    const created = bpf.tcHookCreate(hook(link.index));
    if (created !== -EEXIST) check(`clsact on ${link.name}`, created);
  }
  attachment.put(program, current);
  return attachment;
}

/** True if a program of ours is on the interface that is not this one: a dead agent's. */
export function hasPredecessor(program: Program, ifindex: number, list: ListFilters): boolean {
  return list(ifindex).some((filter) => isOurs(filter) && filter.bpfId !== program.id);
}

/** Removes every filter of ours from this host; the names of the interfaces that had one. Throws SystemError. */
export function detachAll(host: Pick<Host, 'links' | 'filters'>): string[] {
  const had = host.links().filter(({ index }) => {
    const ours = host.filters(index).filter(isOurs);
    for (const filter of ours) remove(libbpf, index, filter);
    return ours.length > 0;
  });
  return had.map(({ name }) => name);
}

class ClsactFilter implements Attachment {
  readonly #bpf: Bpf;
  readonly #link: Interface;
  readonly #list: ListFilters;
  #program: Program;

  constructor(bpf: Bpf, link: Interface, list: ListFilters, program: Program) {
    this.#bpf = bpf;
    this.#link = link;
    this.#list = list;
    this.#program = program;
  }

  holds(): boolean {
    return this.#ours().length > 0;
  }

  replace(program: Program): void {
    this.put(program, this.#ours()[0]);
  }

  detach(): void {
    for (const filter of this.#ours()) remove(this.#bpf, this.#link.index, filter);
  }

  /** The filter has no descriptor of ours: it keeps itself, the program and its maps. */
  release(): void {}

  /** As a filter of its own, or in the place of `current`. */
  put(program: Program, current: Filter | undefined): void {
    const options = {
      prog_fd: program.fd,
      flags: current ? libbpf.BPF.TC_F_REPLACE : 0,
      prog_id: 0,
      handle: current?.handle ?? 0,
      priority: current?.priority ?? 0,
    };
    check(`attach to ${this.#link.name}`, this.#bpf.tcAttach(hook(this.#link.index), options));
    this.#program = program;
  }

  #ours(): readonly Filter[] {
    return this.#list(this.#link.index).filter((filter) => isOurs(filter) && filter.bpfId === this.#program.id);
  }
}

/** By the name that libbpf gives a filter: the program's, and its tag. */
export function isOurs(filter: Filter): boolean {
  return filter.kind === 'bpf' && filter.bpfName?.startsWith(`${PROGRAM}:[`) === true;
}

function remove(bpf: Bpf, ifindex: number, { handle, priority }: Filter): void {
  const result = bpf.tcDetach(hook(ifindex), handle, priority);
  // Gone already: the filter, its qdisc or the whole interface.
  if (result === -ENOENT || result === -EINVAL || result === -ENODEV) return;
  check(`detach from interface ${ifindex}`, result);
}
