/** Loads the program, and attaches it where nobody else has anything: in a network namespace of its own. */
import { constants } from 'node:os';
import { attach, attachFailure } from '../../datapath/tc/attachment.ts';
import { type BpfObject, loadObject } from '../../datapath/tc/object.ts';
import { lessenedMaps } from '../../datapath/tc/sizes.ts';
import { SystemError } from '../../ffi/errno.ts';
import { inFreshNetwork } from '../../ffi/namespace.ts';
import type { Listener } from '../../model.ts';
import { openHost } from '../../netlink/host.ts';

const LO = { index: 1, name: 'lo' };

export interface KernelFacts {
  /** Why the BPF object does not load; undefined if it does. */
  readonly obstacle?: string;
  /** It loads, but not as it should. */
  readonly remark?: string;
  /** Whether the program attaches; text says why not. Absent where it was not loaded, or where nothing could be tried. */
  readonly attaches?: true | string;
}

export function tryProgram(objectPath: string, listeners: readonly Listener[]): KernelFacts {
  let object: BpfObject;
  try {
    object = loadObject(objectPath, listeners);
  } catch (error) {
    return { obstacle: (error as Error).message };
  }
  try {
    return { ...tryAttachment(object), ...(object.lessened && { remark: lessenedMaps(object.sizes) }) };
  } finally {
    object.close();
  }
}

function tryAttachment(object: BpfObject): Pick<KernelFacts, 'attaches'> {
  try {
    return { attaches: inFreshNetwork(() => attachToLo(object)) };
  } catch (error) {
    if (error instanceof SystemError && error.errno === constants.errno.EPERM) return {};
    throw error;
  }
}

function attachToLo(object: BpfObject): true | string {
  const host = openHost();
  try {
    attach(object.programFd, object.programId, LO, (ifindex) => host.filters(ifindex));
    return true;
  } catch (error) {
    return attachFailure(object.file, error);
  } finally {
    host.close();
  }
}
