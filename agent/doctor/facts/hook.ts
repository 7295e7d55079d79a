/** What sits on the ingress of an interface: tc filters, tcx programs, XDP. */
import { SystemError } from '../../ffi/errno.ts';
import { programName, tcxPrograms } from '../../ffi/inspect.ts';
import type { Host } from '../../netlink/host.ts';
import { type Link, linksRequest } from '../../netlink/link.ts';
import { decodePayload, LITTLE_ENDIAN } from '../../netlink/message.ts';
import { NLM_F_DUMP, Rtnetlink } from '../../netlink/socket.ts';
import type { Hook, Program } from '../hook.ts';

const IFINFOMSG = 16;
/** linux/if_link.h: IFLA_XDP and in it IFLA_XDP_PROG_ID. */
const IFLA_XDP = 43;
const IFLA_XDP_PROG_ID = 4;

export function readHooks(host: Pick<Host, 'filters'>, links: readonly Link[]): Hook[] {
  const xdp = readXdp();
  return links.map(({ index, name }) => {
    const id = xdp.get(index);
    return { name, filters: host.filters(index), tcx: readTcx(index), ...(id !== undefined && { xdp: id }) };
  });
}

/** Before 6.6 there is no tcx, and the kernel says EINVAL. */
function readTcx(ifindex: number): readonly Program[] | string {
  try {
    return tcxPrograms(ifindex).map((id) => {
      const name = programName(id);
      return { id, ...(name !== undefined && { name }) };
    });
  } catch (error) {
    if (!(error instanceof SystemError)) return (error as Error).message;
    return error.code === 'EINVAL' ? [] : error.message;
  }
}

/** XDP programs by interface index. */
function readXdp(): ReadonlyMap<number, number> {
  const socket = new Rtnetlink();
  try {
    const found = socket.request('RTM_GETLINK', NLM_F_DUMP, linksRequest()).flatMap(({ payload }) => {
      const { header, attributes } = decodePayload(payload, IFINFOMSG);
      const id = attributes.nested(IFLA_XDP).u32(IFLA_XDP_PROG_ID);
      return id === undefined || id === 0 ? [] : [[header.getInt32(4, LITTLE_ENDIAN), id] as const];
    });
    return new Map(found);
  } finally {
    socket.close();
  }
}
