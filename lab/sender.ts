/**
 * Program: sends numbered datagrams from one namespace, dealing them to its streams in turn. Says when the first has left,
 * and at the end what it sent. Ends early when a send fails, or when its standard input ends.
 */
import { writeSync } from 'node:fs';
import { formatAddress } from '../agent/address.ts';
import * as libc from './libc.ts';
import { writePayload } from './payload.ts';
import { sleepSync } from './processes.ts';
import { decodeSockaddr, encodeSockaddr, parseAddress } from './sockaddr.ts';

/** The program's only argument, as JSON. */
export interface SenderJob {
  /** Path of the namespace that it sends from. */
  readonly namespace: string;
  readonly to: string;
  readonly sources: readonly string[];
  /** How many streams, and the id of the first; stream `n` has source `n` modulo the sources, and the next port each round. */
  readonly streams: number;
  readonly firstStream: number;
  readonly count: number;
  /** Even if its input ends it sends so many. */
  readonly least: number;
  /** Goes on after a send that failed, and counts it. */
  readonly mayFail: boolean;
  readonly size: number;
  /** Datagrams a second; 0: as fast as it goes. */
  readonly rate: number;
  readonly cpu?: number;
  readonly ttl?: number;
  readonly tos?: number;
  readonly dontFragment?: boolean;
  /** Datagrams that one send hands to the kernel as a single buffer (UDP_SEGMENT). */
  readonly segments: number;
}

/** The program's first line on standard output, unless no send succeeds. */
export const FLOWS = 'flows';

/** The program's last line on standard output. */
export interface SenderResult {
  readonly streams: readonly SentStream[];
  /** Datagrams of failed sends, by errno name. They are not in any stream's count. */
  readonly failures: Readonly<Record<string, number>>;
  readonly ms: number;
}

export interface SentStream {
  readonly stream: number;
  readonly from: string;
  /** Sequence numbers run from 0 to `count` - 1. */
  readonly count: number;
}

interface Stream {
  readonly stream: number;
  readonly from: string;
  readonly fd: number;
  count: number;
}

const IP_PMTUDISC_DONT = 0;
const IP_PMTUDISC_DO = 2;
const LARGEST_BURST = 512;

const job = JSON.parse(process.argv[2]!) as SenderJob;
const target = parseAddress(job.to);
const to = encodeSockaddr(target);
const streams = libc.insideNamespace(job.namespace, () =>
  Array.from({ length: job.streams }, (_, index) => openStream(index)),
);
const failures: Record<string, number> = {};
const input = Buffer.alloc(8);
input.writeInt16LE(libc.POLLIN, 4);
const buffer = Buffer.alloc(job.size * job.segments);
let flows = false;
let inputEnded = false;

const ms = libc.onCpu(job.cpu, sendAll);
const result: SenderResult = {
  streams: streams.map(({ stream, from, count }) => ({ stream, from, count })),
  failures,
  ms,
};
print(result);

/** Sends what is due, then sleeps on its input until more is. Returns the milliseconds it took. */
function sendAll(): number {
  const start = performance.now();
  for (let done = 0, turn = 0; done < job.count; ) {
    const due = job.rate === 0 ? job.count : Math.ceil(((performance.now() - start + 1) * job.rate) / 1000);
    // A sender that was held up must not flood the receivers with all that it owes.
    const burst = Math.min(due, job.count, done + LARGEST_BURST);
    while (done < burst) {
      const datagrams = Math.min(job.segments, job.count - done);
      const errno = sendNext(streams[turn++ % streams.length]!, datagrams);
      if (errno !== 0) failures[libc.errnoName(errno)] = (failures[libc.errnoName(errno)] ?? 0) + datagrams;
      if (errno !== 0 && !job.mayFail) return performance.now() - start;
      if (errno === 0 && !flows) print(FLOWS);
      flows ||= errno === 0;
      done += datagrams;
    }
    const early = job.rate === 0 ? 0 : (done * 1000) / job.rate - (performance.now() - start);
    const ends = done < job.count && rest(Math.max(0, Math.ceil(early)));
    if (ends && done >= job.least) break;
  }
  return performance.now() - start;
}

/** Waits so many milliseconds, or until the input ends; true if it has. */
function rest(ms: number): boolean {
  if (inputEnded) sleepSync(ms);
  inputEnded ||= libc.poll(input, ms) > 0;
  return inputEnded;
}

/** Returns 0 or an errno. */
function sendNext(stream: Stream, datagrams: number): number {
  for (let i = 0; i < datagrams; i++) {
    writePayload(buffer, { stream: stream.stream, sequence: stream.count + i }, i * job.size, job.size);
  }
  const errno = libc.sendTo(stream.fd, buffer, datagrams * job.size, to);
  if (errno === 0) stream.count += datagrams;
  return errno;
}

function print(line: SenderResult | typeof FLOWS): void {
  writeSync(1, `${JSON.stringify(line)}\n`);
}

function openStream(index: number): Stream {
  const source = parseAddress(job.sources[index % job.sources.length]!);
  const port = source.port === 0 ? 0 : source.port + Math.floor(index / job.sources.length);
  const v4 = target.family === 4;
  const fd = libc.socket(v4 ? libc.AF.INET : libc.AF.INET6, libc.SOCK.DGRAM);
  const option = (ip: number, ipv6: number, value: number) =>
    libc.setOption(fd, v4 ? libc.SOL.IP : libc.SOL.IPV6, v4 ? ip : ipv6, value);
  // Any source may be used, also one that another sender has, or no interface here.
  libc.setOption(fd, libc.SOL.SOCKET, libc.SO.REUSEADDR, 1);
  libc.setOption(fd, libc.SOL.SOCKET, libc.SO.BROADCAST, 1);
  option(libc.IP.TRANSPARENT, libc.IPV6.TRANSPARENT, 1);
  if (job.ttl !== undefined) option(libc.IP.TTL, libc.IPV6.UNICAST_HOPS, job.ttl);
  if (job.tos !== undefined) option(libc.IP.TOS, libc.IPV6.TCLASS, job.tos);
  if (job.dontFragment !== undefined) {
    const discovery = job.dontFragment ? IP_PMTUDISC_DO : IP_PMTUDISC_DONT;
    option(libc.IP.MTU_DISCOVER, libc.IPV6.MTU_DISCOVER, discovery);
  }
  if (job.segments > 1) libc.setOption(fd, libc.SOL.UDP, libc.UDP_SEGMENT, job.size);
  libc.bind(fd, encodeSockaddr({ ...source, port }));
  return { stream: job.firstStream + index, from: formatAddress(decodeSockaddr(libc.boundAddress(fd))), fd, count: 0 };
}
