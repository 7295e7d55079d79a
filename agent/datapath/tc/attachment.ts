/** Our program on interfaces: clsact filters, found again, replaced in place, removed; never anybody else's. */
import { constants } from 'node:os';
import { check, SystemError } from '../../ffi/errno.ts';
import * as libbpf from '../../ffi/libbpf.ts';
import { attachRefusal, type ObjectFile } from '../../kernel/refusal.ts';
import type { Filter } from '../../netlink/filter.ts';
import type { Host } from '../../netlink/host.ts';
import type { Interface } from '../datapath.ts';
import { PROGRAM } from './object.ts';

const { EEXIST, ENOENT, EINVAL, ENODEV } = constants.errno;

/** Lists the ingress filters of an interface; empty where there are none or the interface is gone. */
export type ListFilters = (ifindex: number) => readonly Filter[];

const hook = (ifindex: number): libbpf.TcHook => ({ ifindex, attach_point: libbpf.BPF.TC_INGRESS });

/**
 * Sees to it that the program is on the interface: true if it had to be attached. A filter that a dead agent left is
 * replaced in place, so that no datagram passes between the two; its twins are removed. Throws SystemError.
 */
export function attach(programFd: number, programId: number, link: Interface, list: ListFilters): boolean {
  const ours = list(link.index).filter(isOurs);
  const [current, ...twins] = [...ours].sort((a, b) => Number(b.bpfId === programId) - Number(a.bpfId === programId));
  for (const twin of twins) remove(link.index, twin);
  if (current?.bpfId === programId) return false;
  if (!current) {
    const created = libbpf.tcHookCreate(hook(link.index));
    if (created !== -EEXIST) check(`clsact on ${link.name}`, created);
  }
  const options = {
    prog_fd: programFd,
    flags: current ? libbpf.BPF.TC_F_REPLACE : 0,
    prog_id: 0,
    handle: current?.handle ?? 0,
    priority: current?.priority ?? 0,
  };
  check(`attach to ${link.name}`, libbpf.tcAttach(hook(link.index), options));
  return true;
}

/** True if a program of ours is on the interface that is not this one: a dead agent's. */
export function hasPredecessor(programId: number, ifindex: number, list: ListFilters): boolean {
  return list(ifindex).some((filter) => isOurs(filter) && filter.bpfId !== programId);
}

/** Removes from the interface every filter that is ours and that `mine` picks; how many there were. */
export function detach(ifindex: number, list: ListFilters, mine: (filter: Filter) => boolean = () => true): number {
  const ours = list(ifindex).filter((filter) => isOurs(filter) && mine(filter));
  for (const filter of ours) remove(ifindex, filter);
  return ours.length;
}

/** Removes every filter of ours from this host; the names of the interfaces that had one. Throws SystemError. */
export function detachAll(host: Pick<Host, 'links' | 'filters'>): string[] {
  const had = host.links().filter(({ index }) => detach(index, (ifindex) => host.filters(ifindex)) > 0);
  return had.map(({ name }) => name);
}

/** Why an attachment failed, in the words of the guide. */
export function attachFailure(file: ObjectFile, error: unknown): string {
  if (error instanceof SystemError) return attachRefusal(file, error);
  return `failed to attach TC program: ${(error as Error).message}`;
}

function isOurs(filter: Filter): boolean {
  return filter.kind === 'bpf' && filter.bpfName?.startsWith(`${PROGRAM}:[`) === true;
}

function remove(ifindex: number, { handle, priority }: Filter): void {
  const result = libbpf.tcDetach(hook(ifindex), handle, priority);
  // Gone already: the filter, its qdisc or the whole interface.
  if (result === -ENOENT || result === -EINVAL || result === -ENODEV) return;
  check(`detach from interface ${ifindex}`, result);
}
