/** Sockets of this network namespace that hold certain ports, from /proc/net (proc(5)). */
import { readdirSync, readlinkSync } from 'node:fs';
import { ipText } from '../../address.ts';
import type { HeldSocket } from '../conflicts.ts';
import { read } from './process.ts';

type Held = Omit<HeldSocket, 'owner' | 'ours'> & { readonly inode: string };

/** TCP_LISTEN of net/tcp_states.h. */
const LISTEN = '0A';

/**
 * UDP sockets, and TCP sockets that listen, on one of these ports. While an agent runs, a socket whose process cannot be
 * seen from here (another container's) is taken for the agent's.
 */
export function readSockets(ports: ReadonlySet<number>, isAgentRunning: boolean): HeldSocket[] {
  const held = (['udp', 'tcp'] as const).flatMap((protocol) =>
    (['', '6'] as const).flatMap((suffix) => decodeSockets(read(`/proc/net/${protocol}${suffix}`) ?? '', protocol)),
  );
  const wanted = held.filter(({ port }) => ports.has(port));
  const owners = ownersOf(new Set(wanted.map(({ inode }) => inode)));
  return wanted.map(({ inode, ...socket }) => {
    const owner = owners.get(inode);
    const name = owner && `${owner.name} (process ${owner.pid})`;
    return { ...socket, ours: owner?.ours ?? isAgentRunning, ...(name !== undefined && { owner: name }) };
  });
}

/** The sockets in the text of /proc/net/udp, udp6, tcp or tcp6; of TCP those that listen. */
export function decodeSockets(text: string, protocol: 'udp' | 'tcp'): Held[] {
  return text.split('\n').flatMap((line) => {
    const [, local = '', , state, , , , , , inode = ''] = line.trim().split(/\s+/);
    const [, hex, port] = /^([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4})$/.exec(local) ?? [];
    if (hex === undefined || port === undefined || (protocol === 'tcp' && state !== LISTEN)) return [];
    return [{ protocol, family: hex.length === 8 ? 4 : 6, ip: decodeIp(hex), port: Number.parseInt(port, 16), inode }];
  });
}

/** Words of 32 bits, each written as the little-endian number that it is. */
function decodeIp(hex: string): string {
  const words = hex.match(/.{8}/g) ?? [];
  return ipText(Buffer.concat(words.map((word) => Buffer.from(word, 'hex').reverse())));
}

interface Owner {
  readonly pid: string;
  readonly name: string;
  readonly ours: boolean;
}

/** By inode, the processes that can be seen from here: in a pod, those of its container. */
function ownersOf(inodes: ReadonlySet<string>): ReadonlyMap<string, Owner> {
  const owners = new Map<string, Owner>();
  if (inodes.size === 0) return owners;
  for (const pid of list('/proc').filter((name) => /^\d+$/.test(name))) {
    for (const fd of list(`/proc/${pid}/fd`)) {
      const inode = /^socket:\[(\d+)\]$/.exec(link(`/proc/${pid}/fd/${fd}`))?.[1];
      if (inode !== undefined && inodes.has(inode)) owners.set(inode, ownerOf(pid));
    }
  }
  return owners;
}

function ownerOf(pid: string): Owner {
  const command = (read(`/proc/${pid}/cmdline`) ?? '').split('\0');
  const ours = command.slice(0, 4).some((word) => /(^|\/)(udp-fanout(\.js)?|agent\/entry\.ts)$/.test(word));
  return { pid, ours, name: read(`/proc/${pid}/comm`)?.trim() ?? 'a process' };
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function link(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
