/**
 * Numbered datagrams: `send` them in one namespace, `receive` them in others; `union` says whether each came once. What was
 * not sent cannot be lost: fewer datagrams than were meant to leave are an error that names the errno.
 */
import { books } from './books.ts';
import type { Host, Pod } from './host.ts';
import { patient } from './patience.ts';
import { Program } from './program.ts';
import type { ReceiverCommand, ReceiverJob, ReceiverReport, UdpErrors } from './receiver.ts';
import type { FLOWS, SenderJob, SenderResult } from './sender.ts';
import { addressText } from './sockaddr.ts';

export interface SendOptions {
  /** `ip:port` or `[ipv6]:port`. */
  readonly to: string;
  /** Sources, `ip:port` or just `ip`; any address will do, also one that the host does not have. */
  readonly from?: string | readonly string[];
  /** Datagrams in all, dealt to the streams in turn. Left out: until `stop`. */
  readonly count?: number;
  /** What an endless run has sent at least when `stop` returns; 100. */
  readonly least?: number;
  /** Failed sends are a result, and no error. */
  readonly mayFail?: boolean;
  /** Bytes of UDP payload, at least 16; 64. */
  readonly size?: number;
  /** Datagrams a second in bursts of a millisecond; 100000, and 0 is as fast as it goes. */
  readonly rate?: number;
  /** One for each source, or more: the sources are used again, with the next port. */
  readonly streams?: number;
  /** The CPU that sends; what it sends is forwarded on that CPU too. */
  readonly cpu?: number;
  readonly ttl?: number;
  readonly tos?: number;
  /** Sets or clears DF whatever the path MTU is; left out: the system's way. */
  readonly dontFragment?: boolean;
  /** Datagrams that the kernel gets in one buffer to segment (UDP GSO), at most 64; 1. */
  readonly segments?: number;
}

export interface Sent extends SenderResult {
  /** Datagrams that left, over all streams: all that were asked for, at least one, unless sends may fail. */
  readonly count: number;
}

/** A sender in the background, whose first datagram has left. */
export interface Sending {
  /** Resolves when the last datagram has left. */
  readonly done: Promise<Sent>;
  /** Ends it before that; not before `least` have left. */
  stop(): Promise<Sent>;
}

/** What the receivers counted, one by one and in sum. */
export interface Report {
  readonly receivers: ReceiverReport;
  readonly count: number;
  readonly payloadErrors: number;
  readonly errors: UdpErrors;
}

export interface SettleOptions {
  /** Datagrams to wait for, over all receivers. */
  readonly expect?: number;
  /**
   * Milliseconds, of an ordinary machine, without a datagram after which no more is expected; 100, or 1000 while some are
   * missing.
   */
  readonly quiet?: number;
  /** Milliseconds, likewise, after which it ends in any case; 10000. */
  readonly limit?: number;
}

/** Open sockets in the namespaces of some hosts. */
export interface Receivers extends Disposable, AsyncDisposable {
  /** Waits until the traffic has settled, says what came since the last report, and counts anew. */
  report(options?: SettleOptions): Promise<Report>;
  /** What has come since the last report, down to what just waits in a socket, without sequence numbers and times. */
  peek(): Promise<Report>;
  close(): void;
}

let streamsStarted = 0;

/** Sends datagrams from a host and waits until the last has left. */
export async function send(
  host: Pick<Host, 'namespace'>,
  options: SendOptions & { readonly count: number },
): Promise<Sent> {
  const { program, job } = sender(host, options);
  return wholeOf(job, await lastLine(program), job.count);
}

/** Starts sending and returns when the first datagram has left. */
export async function startSending(host: Pick<Host, 'namespace'>, options: SendOptions): Promise<Sending> {
  const { program, job } = sender(host, options);
  const first = await program.answer();
  if (first !== 'flows') wholeOf(job, first, job.least);
  let wanted = job.count;
  const done = lastLine(program).then((result) => wholeOf(job, result, wanted));
  return {
    done,
    stop: () => {
      wanted = Math.min(job.count, job.least);
      program.end();
      return done;
    },
  };
}

type Sender = Program<never, SenderResult | typeof FLOWS>;

function sender({ namespace }: Pick<Host, 'namespace'>, options: SendOptions): { program: Sender; job: SenderJob } {
  const { to, from = to.startsWith('[') ? '::' : '0.0.0.0', ...rest } = options;
  const sources = [from].flat();
  const defaults = {
    ...{ count: Number.MAX_SAFE_INTEGER, least: 100, mayFail: false },
    ...{ size: 64, rate: 100_000, segments: 1, streams: sources.length },
  };
  const job: SenderJob = {
    ...defaults,
    ...rest,
    namespace: namespace.path,
    to,
    sources,
    firstStream: streamsStarted + 1,
  };
  // Runs do not mix at the receivers: each has stream ids of its own.
  streamsStarted += job.streams;
  return { program: new Program(namespace, 'sender.ts', job), job };
}

async function lastLine(program: Sender): Promise<SenderResult> {
  for (;;) {
    const line = await program.answer();
    if (line !== 'flows') return line;
  }
}

/** What was sent; throws if sends failed, or fewer than `wanted` datagrams left. */
function wholeOf({ to, mayFail }: SenderJob, result: SenderResult, wanted: number): Sent {
  const count = sum(result.streams.map((stream) => stream.count));
  const failures = Object.entries(result.failures).map(([errno, datagrams]) => `${errno} for ${datagrams}`);
  if (!mayFail && (failures.length > 0 || count < wanted))
    throw new Error(
      `send to ${to}: ${count} datagrams left, ${wanted} were meant to; ${failures.join(', ') || 'no errno'}`,
    );
  const sent = { ...result, count };
  books()?.sent.push(sent);
  return sent;
}

export interface ReceiveOptions {
  readonly port?: number;
  readonly bufferBytes?: number;
  /** Instead of TTLs, when each datagram was handed over: `times` of a receiver's report. */
  readonly times?: boolean;
}

/** Opens a socket on `port` (a pod's own if left out) in each host's namespace and returns when all can receive. */
export async function receive(hosts: readonly (Host | Pod)[], options: ReceiveOptions = {}): Promise<Receivers> {
  const sockets = hosts.map((host) => {
    const port = options.port ?? ('port' in host ? host.port : undefined);
    if (port === undefined) throw new Error(`receive on "${host.name}": not a pod, want a port`);
    const bind = addressText(host.ip.includes(':') ? '::' : '0.0.0.0', port);
    return { name: host.name, namespace: host.namespace.path, bind };
  });
  const { bufferBytes = 32 << 20, times = false } = options;
  const job: ReceiverJob = { sockets, buffer: bufferBytes, times };
  const program = new Program<ReceiverCommand, ReceiverReport>(hosts[0]!.namespace, 'receiver.ts', job);
  await program.answer();
  const kept = books();
  const close = () => {
    kept?.receivers.delete(receivers);
    program.end();
  };
  const ask = async ({ expect = 0, quiet = expect > 0 ? 1000 : 100, limit = 10_000 }: SettleOptions = {}) =>
    inSum(await program.ask({ kind: 'settle', expect, quiet: patient(quiet), limit: patient(limit) }));
  const receivers: Receivers = {
    report: async (options) => {
      const report = await ask(options);
      books()?.reports.push(report);
      return report;
    },
    peek: async () => inSum(await program.ask({ kind: 'peek' })),
    close,
    [Symbol.dispose]: close,
    [Symbol.asyncDispose]: async () => close(),
  };
  kept?.receivers.add(receivers);
  return receivers;
}

function inSum(receivers: ReceiverReport): Report {
  const errors = (name: keyof UdpErrors) => sum(receivers.map((receiver) => receiver.errors[name]));
  return {
    receivers,
    count: sum(receivers.map(({ count }) => count)),
    payloadErrors: sum(receivers.map(({ payloadErrors }) => payloadErrors)),
    errors: {
      InErrors: errors('InErrors'),
      InCsumErrors: errors('InCsumErrors'),
      RcvbufErrors: errors('RcvbufErrors'),
      NoPorts: errors('NoPorts'),
    },
  };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, each) => total + each, 0);
}
