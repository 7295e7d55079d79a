/** The clsact hook: filters that are found again, replaced in place, removed; never anybody else's, nor the qdisc. */
import { constants } from 'node:os';
import { check } from '../../ffi/errno.ts';
import * as libbpf from '../../ffi/libbpf.ts';
import type { Filter, Side } from '../../netlink/filter.ts';
import type { Host } from '../../netlink/host.ts';
import type { Interface } from '../datapath.ts';
import { OUT_PROGRAM, PROGRAM } from './abi.ts';
import type { Attachment, Program } from './attachment.ts';
import type { Bpf } from './bpf.ts';

const { EEXIST, ENOENT, EINVAL, ENODEV } = constants.errno;

/** Lists the filters of an interface; empty where there are none or the interface is gone. */
export type ListFilters = (ifindex: number, side: Side) => readonly Filter[];

/** Which of our programs is where, and libbpf's number of the place. */
const SIDES = {
  ingress: { program: PROGRAM, point: libbpf.BPF.TC_INGRESS },
  egress: { program: OUT_PROGRAM, point: libbpf.BPF.TC_EGRESS },
} as const;
const SIDE_NAMES = ['ingress', 'egress'] as const;

const hook = (ifindex: number, side: Side): libbpf.TcHook => ({ ifindex, attach_point: SIDES[side].point });

/**
 * Puts the program on the interface, in the place of what a dead agent left there; twins of that are removed. Throws
 * SystemError.
 */
export function attachClsact(
  program: Program,
  link: Interface,
  list: ListFilters,
  bpf: Bpf = libbpf,
  side: Side = 'ingress',
): Attachment {
  const [current, ...twins] = list(link.index, side).filter(isOurs);
  for (const twin of twins) remove(bpf, link.index, side, twin);
  const attachment = new ClsactFilter(bpf, link, list, program, side);
  if (!current) {
    const created = bpf.tcHookCreate(hook(link.index, side));
    if (created !== -EEXIST) check(`clsact on ${link.name}`, created);
  }
  attachment.put(program, current);
  return attachment;
}

/** True if a program of ours is on the interface that is not this one: a dead agent's. */
export function hasPredecessor(program: Program, ifindex: number, list: ListFilters): boolean {
  return list(ifindex, 'ingress').some((filter) => isOurs(filter) && filter.bpfId !== program.id);
}

/** The interfaces of this host that have a program of ours, whoever attached it. Throws SystemError. */
export function interfacesWithOurs(host: Pick<Host, 'links' | 'filters'>): string[] {
  const has = (index: number) => SIDE_NAMES.some((side) => host.filters(index, side).some(isOurs));
  return host
    .links()
    .filter(({ index }) => has(index))
    .map(({ name }) => name);
}

/** Removes every filter of ours from this host; the names of the interfaces that had one. Throws SystemError. */
export function detachAll(host: Pick<Host, 'links' | 'filters'>): string[] {
  const list: ListFilters = (ifindex, side) => host.filters(ifindex, side);
  const had = host.links().filter(({ index }) => {
    const sides = SIDE_NAMES.map((side) => detachOurs(index, side, list));
    return sides.includes(true);
  });
  return had.map(({ name }) => name);
}

/** Removes our filters from one side of an interface, whoever attached them; true if there were any. Throws SystemError. */
export function detachOurs(ifindex: number, side: Side, list: ListFilters, bpf: Bpf = libbpf): boolean {
  const ours = list(ifindex, side).filter(isOurs);
  for (const filter of ours) remove(bpf, ifindex, side, filter);
  return ours.length > 0;
}

class ClsactFilter implements Attachment {
  readonly #bpf: Bpf;
  readonly #link: Interface;
  readonly #list: ListFilters;
  readonly #side: Side;
  #program: Program;

  constructor(bpf: Bpf, link: Interface, list: ListFilters, program: Program, side: Side) {
    this.#side = side;
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
    for (const filter of this.#ours()) remove(this.#bpf, this.#link.index, this.#side, filter);
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
    check(`attach to ${this.#link.name}`, this.#bpf.tcAttach(hook(this.#link.index, this.#side), options));
    this.#program = program;
  }

  #ours(): readonly Filter[] {
    return this.#list(this.#link.index, this.#side).filter(
      (filter) => isOurs(filter) && filter.bpfId === this.#program.id,
    );
  }
}

/** By the name that libbpf gives a filter: the program's, and its tag. */
export function isOurs({ kind, bpfName = '' }: Filter): boolean {
  return kind === 'bpf' && [PROGRAM, OUT_PROGRAM].includes(bpfName.replace(/:\[.*$/, ''));
}

function remove(bpf: Bpf, ifindex: number, side: Side, { handle, priority }: Filter): void {
  const result = bpf.tcDetach(hook(ifindex, side), handle, priority);
  // Gone already: the filter, its qdisc or the whole interface.
  if (result === -ENOENT || result === -EINVAL || result === -ENODEV) return;
  check(`detach from interface ${ifindex}`, result);
}
