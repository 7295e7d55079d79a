/**
 * A trial: numbered datagrams of one source through a node while something is done to its agent. What may not happen to any of
 * them is a count that has to be 0.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Family } from '../agent/address.ts';
import type { Host, Pod } from './host.ts';
import { realTime } from './libc.ts';
import { type Receivers, type Report, receive, type Sending, type Sent, startSending } from './traffic.ts';
import { union } from './union.ts';

/** Datagrams of one family. */
export interface Flow {
  readonly family: Family;
  readonly from: string;
  readonly to: string;
  readonly pods: readonly Pod[];
}

export interface TrialOptions {
  readonly client: Host;
  readonly node: Host;
  readonly flows: readonly Flow[];
  /** Datagrams a second, of each flow. */
  readonly rate: number;
  /** As of `SendOptions`. */
  readonly size?: number;
  readonly mayFail?: boolean;
}

/** What became of a flow. */
export interface Outcome {
  readonly family: Family;
  readonly sent: number;
  readonly ms: number;
  /** Those that came nowhere, all in all. */
  readonly missing: number;
  /** That receivers had no room for, of all flows: their own loss. */
  readonly full: number;
  /** That found nobody at the node's port. */
  readonly refused: number;
  readonly doubled: number;
  /** Handed to a downstream while it was none. */
  readonly late: number;
  /** That came from another source than theirs. */
  readonly strange: number;
  /** ICMP errors that the sender's host heard. */
  readonly icmp: number;
}

/** The time in which a pod, by its index, was no downstream; in microseconds since 1970. */
interface Absence {
  readonly pod: number;
  readonly from: number;
  to: number;
}

/** For an open one: later than any time, and yet a number. */
const NOT_YET = Number.POSITIVE_INFINITY;
/** Long flights of numbers are fetched in pieces. */
const PIECE_MS = 5000;
const BUFFER_BYTES = 128 << 20;

export class Trial implements Disposable {
  readonly #options: TrialOptions;
  readonly #receivers: Receivers;
  readonly #sendings: readonly Sending[];
  readonly #reports: Report[] = [];
  readonly #absences: Absence[] = [];
  readonly #before: readonly Heard[];
  #fetched = performance.now();

  private constructor(options: TrialOptions, receivers: Receivers, before: readonly Heard[], sendings: Sending[]) {
    this.#options = options;
    this.#receivers = receivers;
    this.#before = before;
    this.#sendings = sendings;
  }

  /** Returns when each flow has begun. */
  static async begin(options: TrialOptions): Promise<Trial> {
    const { client, flows, rate, size = 64, mayFail = false } = options;
    const pods = flows.flatMap((flow) => flow.pods);
    const receivers = await receive(pods, { times: true, bufferBytes: BUFFER_BYTES });
    const before = flows.map(({ family }) => heard(options, family));
    const sendings: Sending[] = [];
    for (const { to, from } of flows) {
      const sending = await startSending(client, { to, from, rate, size, mayFail, cpu: 0 });
      // Where a trial is given up, nobody asks what its senders have to say.
      sending.done.catch(() => {});
      sendings.push(sending);
    }
    return new Trial(options, receivers, before, sendings);
  }

  /** From now on, and until `everyone`, the pod of that index is no downstream. */
  gone(pod: number): void {
    this.#absences.push({ pod, from: realTime(), to: NOT_YET });
  }

  /** To be called before a table may have all pods again. */
  everyone(): void {
    const now = realTime();
    for (const absence of this.#absences) if (absence.to === NOT_YET) absence.to = now;
  }

  /** How many have come since what was fetched last. */
  async come(): Promise<readonly number[]> {
    return (await this.#receivers.peek()).receivers.map(({ count }) => count);
  }

  /** Fetches what has come, if there is much; to be called now and then. */
  async fetch(): Promise<void> {
    if (performance.now() - this.#fetched < PIECE_MS) return;
    this.#reports.push(await this.#receivers.report({ limit: 1 }));
    this.#fetched = performance.now();
  }

  /** Ends the flows, waits for the last datagram, and closes the receivers. */
  async end(): Promise<readonly Outcome[]> {
    this.everyone();
    const sent = await Promise.all(this.#sendings.map((sending) => sending.stop()));
    const missing = sent.reduce((sum, { count }) => sum + count, 0) - sumOf(this.#reports, ({ count }) => count);
    this.#reports.push(await this.#receivers.report({ expect: missing }));
    // An ICMP error comes after the datagram that it is of.
    await sleep(20);
    const outcomes = this.#options.flows.map((flow, at) => this.#outcome(flow, sent[at]!, this.#before[at]!, at));
    this[Symbol.dispose]();
    return outcomes;
  }

  [Symbol.dispose](): void {
    this.#receivers.close();
  }

  #outcome({ family, from, pods }: Flow, sent: Sent, before: Heard, at: number): Outcome {
    const first = this.#options.flows.slice(0, at).reduce((sum, flow) => sum + flow.pods.length, 0);
    const reports = this.#reports.map(({ receivers }) => ({ receivers: receivers.slice(first, first + pods.length) }));
    const receivers = reports.flatMap((report) => report.receivers.map((receiver, pod) => ({ ...receiver, pod })));
    const { received, duplicated } = union(reports, sent);
    const now = heard(this.#options, family);
    return {
      family,
      sent: sent.count,
      ms: sent.ms,
      missing: sent.count - received,
      full: sumOf(receivers, ({ errors }) => errors.RcvbufErrors),
      refused: now.refused - before.refused,
      doubled: duplicated.reduce((sum, { first: one, last }) => sum + last - one + 1, 0),
      late: sumOf(receivers, ({ times, pod }) => this.#late(sorted(times), pod)),
      strange: sumOf(receivers, ({ count, sources }) => count - (sources[from] ?? 0)),
      icmp: now.icmp - before.icmp,
    };
  }

  #late(times: Float64Array, pod: number): number {
    const absences = this.#absences.filter((absence) => absence.pod === pod);
    return sumOf(absences, ({ from, to }) => firstAfter(times, to) - firstAfter(times, from));
  }
}

interface Heard {
  readonly icmp: number;
  readonly refused: number;
}

function heard({ client, node }: Pick<TrialOptions, 'client' | 'node'>, family: Family): Heard {
  const [icmp, udp] = family === 4 ? ['Icmp', 'Udp'] : ['Icmp6', 'Udp6'];
  const errors = [
    'InDestUnreachs',
    'InTimeExcds',
    ...(family === 4 ? ['InParmProbs'] : ['InParmProblems', 'InPktTooBigs']),
  ];
  const atClient = client.namespace.counters();
  return {
    icmp: sumOf(errors, (name) => atClient.get(`${icmp}${name}`)!),
    refused: node.namespace.counters().get(`${udp}NoPorts`)!,
  };
}

function sorted(times: string): Float64Array {
  return new Float64Array(Uint8Array.from(Buffer.from(times, 'base64')).buffer).sort();
}

/** Where in ascending times the first one after `time` is. */
function firstAfter(times: Float64Array, time: number): number {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle]! > time) high = middle;
    else low = middle + 1;
  }
  return low;
}

function sumOf<T>(all: readonly T[], count: (one: T) => number): number {
  return all.reduce((sum, one) => sum + count(one), 0);
}
