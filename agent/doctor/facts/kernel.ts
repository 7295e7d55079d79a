/** Loads the program, and attaches it where nobody else has anything: in a network namespace of its own. */
import { attachFailure } from '../../datapath/tc/attachment.ts';
import { attachClsact } from '../../datapath/tc/clsact.ts';
import { type BpfObject, loadObject } from '../../datapath/tc/object.ts';
import { lessenedMaps } from '../../datapath/tc/sizes.ts';
import { SystemError } from '../../ffi/errno.ts';
import { LOOPBACK_IFINDEX } from '../../ffi/libc.ts';
import { inFreshNetwork } from '../../ffi/namespace.ts';
import { openHost } from '../../netlink/host.ts';

const LO = { index: LOOPBACK_IFINDEX, name: 'lo' };

export type Attaches = true | string | SystemError;

export interface KernelFacts {
  /** Why the BPF object does not load; undefined if it does. */
  readonly obstacle?: string;
  /** It loads, but not as it should. */
  readonly remark?: string;
  /** Whether the program attaches: text says why not, an error why that could not be tried. Absent where it did not load. */
  readonly attaches?: Attaches;
}

export function tryProgram(objectPath: string): KernelFacts {
  let object: BpfObject;
  try {
    object = loadObject(objectPath);
  } catch (error) {
    return { obstacle: (error as Error).message };
  }
  try {
    const attaches = orWhyUntried(() => inFreshNetwork(() => attachToLo(object)));
    return { attaches, ...(object.lessened && { remark: lessenedMaps(object.sizes) }) };
  } finally {
    object.close();
  }
}

/** A network namespace may be refused for want of a right (EPERM), of room (ENOSPC) or of support in the kernel. */
export function orWhyUntried(attempt: () => true | string): Attaches {
  try {
    return attempt();
  } catch (error) {
    if (error instanceof SystemError) return error;
    throw error;
  }
}

function attachToLo(object: BpfObject): true | string {
  const host = openHost();
  try {
    attachClsact(object.program, LO, (ifindex) => host.filters(ifindex));
    return true;
  } catch (error) {
    return attachFailure(object.file, error);
  } finally {
    host.close();
  }
}
