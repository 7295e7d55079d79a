/** Reachability of this host's network, or none where the kernel tells nothing: that harms nobody. */
import { createSocket } from 'node:dgram';
import { constants } from 'node:os';
import { now } from '../clock.ts';
import { SystemError } from '../ffi/errno.ts';
import type { Part } from '../lifetime.ts';
import type { Log } from '../log.ts';
import type { Host } from '../netlink/host.ts';
import { type Notice, watchNotices } from '../netlink/notices.ts';
import { EgressDrops } from './egress-drops.ts';
import type { Hop } from './hop.ts';
import { Reachability } from './reachability.ts';

/** RFC 863: whoever is there throws it away, or says that nobody listens. */
const DISCARD = 9;

export interface OpenedReachability
  extends Pick<
    Reachability,
    'follow' | 'release' | 'lost' | 'tell' | 'gateway' | 'gatewaysVersion' | 'onLink' | 'isResolved'
  > {
  /** By interface that leads to a downstream, or led to one: packets that it, or its queue, has dropped on the way out. */
  egressDrops(): ReadonlyMap<string, number>;
  close(): void;
}

export interface OpenReachabilityDependencies extends Part {
  readonly host: Host;
  readonly log: Log;
}

/** Undefined where there are no notices to be had. */
export function openReachability({ host, log, ticker }: OpenReachabilityDependencies): OpenedReachability | undefined {
  const reachability = new Reachability({ host, now, ask: (hop) => ask(host, hop) });
  const drops = new EgressDrops({ host, ours: () => reachability.links() });
  const onNotice = (notice: Notice) => {
    // First, as long as it is known where the link led.
    drops.notice(notice);
    reachability.notice(notice);
  };
  try {
    const watch = watchNotices({ onNotice, onDrained: () => reachability.drained() }, { ticker });
    return Object.assign(reachability, { egressDrops: () => drops.read(), close: () => watch.close() });
  } catch (error) {
    log.warn('health paths failed to be watched', { error: (error as Error).message, next: 'probes alone tell' });
    return undefined;
  }
}

/** By the neighbour table, which takes NET_ADMIN; else by a datagram, for which the kernel has to ask. */
function ask(host: Host, { ifindex, address }: Hop): void {
  try {
    host.use(ifindex, address);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    if (error.errno === constants.errno.EPERM) sendNothing(address);
    // A link or an entry that is gone meanwhile is in the next notice.
  }
}

function sendNothing({ family, ip }: Hop['address']): void {
  const socket = createSocket(family === 4 ? 'udp4' : 'udp6');
  socket.on('error', () => {});
  socket.send('', DISCARD, ip, () => socket.close());
}
