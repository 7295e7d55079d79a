/**
 * Program: receives numbered datagrams in several namespaces at once, one socket each, and reports when told to on
 * standard input. One process for all of them knows when the last datagram of a run has come. Ends with its input.
 */
import { openSync, readSync, writeSync } from 'node:fs';
import { AF, bind, IP, IPV6, insideNamespace, POLLIN, poll, SO, SOCK, SOL, setOption, socket } from './libc.ts';
import { MessageBatch } from './messages.ts';
import { readCounters } from './namespace.ts';
import { patient } from './patience.ts';
import { encodeSockaddr, parseAddress } from './sockaddr.ts';
import { type Tally, TallyCounter } from './tally.ts';

/** The program's only argument, as JSON. */
export interface ReceiverJob {
  readonly sockets: readonly { name: string; namespace: string; bind: string }[];
  /** SO_RCVBUF in bytes. */
  readonly buffer: number;
  /** Whether times of handing over are asked of the kernel, instead of TTLs. */
  readonly times: boolean;
}

/** A line on standard input: report what is here, or after the traffic has settled and then count anew. */
export type ReceiverCommand =
  | { readonly kind: 'peek' }
  | { readonly kind: 'settle'; readonly expect: number; readonly quiet: number; readonly limit: number };

/** A line on standard output, one for each command. */
export type ReceiverReport = readonly (Tally & { readonly errors: UdpErrors })[];

/** What the receiving namespace's UDP lost, IPv4 and IPv6 together. */
export interface UdpErrors {
  readonly InErrors: number;
  readonly InCsumErrors: number;
  readonly RcvbufErrors: number;
  readonly NoPorts: number;
}

interface Receiver {
  readonly name: string;
  readonly namespace: string;
  readonly fd: number;
  before: UdpErrors;
  tally: TallyCounter;
}

/** A duplicate is right behind the datagram that completes the count. */
const LINGER = patient(10);
/** Rounds in which all that waited when somebody peeked is fetched: far more than fit into a socket's buffer. */
const ROUNDS = 10_000;
const batch = new MessageBatch();
const job = JSON.parse(process.argv[2]!) as ReceiverJob;
const receivers = job.sockets.map(openReceiver);
const pollFds = Buffer.alloc((receivers.length + 1) * 8);
for (const [at, fd] of [0, ...receivers.map(({ fd }) => fd)].entries()) {
  pollFds.writeInt32LE(fd, at * 8);
  pollFds.writeInt16LE(POLLIN, at * 8 + 4);
}
print('ready');
for (let input = ''; ; ) {
  receive(-1);
  if (pollFds.readInt16LE(6) === 0) continue;
  const chunk = Buffer.alloc(65536);
  const length = readSync(0, chunk);
  if (length === 0) break;
  const lines = (input + chunk.toString('utf8', 0, length)).split('\n');
  input = lines.pop()!;
  for (const line of lines) obey(JSON.parse(line) as ReceiverCommand);
}

function openReceiver({ name, namespace, bind: address }: ReceiverJob['sockets'][number]): Receiver {
  const target = parseAddress(address);
  const [fd, before] = insideNamespace(namespace, () => {
    const opened = socket(target.family === 4 ? AF.INET : AF.INET6, SOCK.DGRAM | SOCK.NONBLOCK);
    // On all addresses, but not in the way of one that is bound to a VIP and the same port.
    setOption(opened, SOL.SOCKET, SO.REUSEADDR, 1);
    setOption(opened, SOL.SOCKET, SO.RCVBUFFORCE, job.buffer);
    if (job.times) setOption(opened, SOL.SOCKET, SO.TIMESTAMPNS, 1);
    if (target.family === 4) setOption(opened, SOL.IP, IP.RECVTTL, job.times ? 0 : 1);
    else setOption(opened, SOL.IPV6, IPV6.V6ONLY, 1);
    if (target.family === 6) setOption(opened, SOL.IPV6, IPV6.RECVHOPLIMIT, job.times ? 0 : 1);
    bind(opened, encodeSockaddr(target));
    return [opened, udpErrors()] as const;
  });
  // Held open: its counters outlive the name, when a pod is taken away.
  return { name, namespace: `/proc/self/fd/${openSync(namespace, 'r')}`, fd, before, tally: counter(name) };
}

function obey(command: ReceiverCommand): void {
  if (command.kind === 'settle') settle(command);
  else for (let round = 0; round < ROUNDS && receive(0) > 0; round++);
  print(
    receivers.map(({ tally, before, namespace }) => {
      const errors = difference(insideNamespace(namespace, udpErrors), before);
      return { ...tally.result(command.kind === 'settle'), errors };
    }),
  );
  if (command.kind === 'peek') return;
  for (const receiver of receivers) {
    receiver.tally = counter(receiver.name);
    receiver.before = insideNamespace(receiver.namespace, udpErrors);
  }
}

/** Receives until all that is expected is here, or nothing came for `quiet` ms, at most `limit` ms in all. */
function settle({ expect, quiet, limit }: ReceiverCommand & { kind: 'settle' }): void {
  const end = performance.now() + limit;
  let last = performance.now();
  for (let now = last; now < end; now = performance.now()) {
    const patience = total() >= expect ? LINGER : quiet;
    if (now - last >= patience) return;
    if (receive(Math.ceil(patience - (now - last))) > 0) last = performance.now();
  }
}

/** Waits up to `timeout` ms for datagrams or a command; returns how many datagrams came. */
function receive(timeout: number): number {
  poll(pollFds, timeout);
  let count = 0;
  for (const [at, { fd, tally }] of receivers.entries()) {
    if (pollFds.readInt16LE(at * 8 + 14) !== 0) count += batch.receive(fd, (message) => tally.add(message));
  }
  return count;
}

function counter(name: string): TallyCounter {
  return new TallyCounter(name, job.times);
}

function total(): number {
  return receivers.reduce((sum, { tally }) => sum + tally.count, 0);
}

function udpErrors(): UdpErrors {
  const counters = readCounters();
  const sum = (name: string) => counters.get(`Udp${name}`)! + counters.get(`Udp6${name}`)!;
  return {
    InErrors: sum('InErrors'),
    InCsumErrors: sum('InCsumErrors'),
    RcvbufErrors: sum('RcvbufErrors'),
    NoPorts: sum('NoPorts'),
  };
}

function difference(now: UdpErrors, before: UdpErrors): UdpErrors {
  return {
    InErrors: now.InErrors - before.InErrors,
    InCsumErrors: now.InCsumErrors - before.InCsumErrors,
    RcvbufErrors: now.RcvbufErrors - before.RcvbufErrors,
    NoPorts: now.NoPorts - before.NoPorts,
  };
}

function print(value: ReceiverReport | 'ready'): void {
  const line = Buffer.from(`${JSON.stringify(value)}\n`);
  for (let written = 0; written < line.length; ) written += writeSync(1, line, written);
}
