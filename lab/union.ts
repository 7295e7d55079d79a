/** Whether each datagram of a run arrived exactly once, over all receivers and all reports. */
import type { SentStream } from './sender.ts';
import type { StreamTally } from './tally.ts';

/** Neighbouring sequence numbers of one stream, both ends included. */
export interface SequenceRange {
  readonly stream: number;
  readonly first: number;
  readonly last: number;
}

/** All is well if `missing` and `duplicated` are empty, and `received` is the number that was meant to be sent. */
export interface Union {
  /** Different datagrams of the run that arrived anywhere. */
  readonly received: number;
  readonly missing: readonly SequenceRange[];
  readonly duplicated: readonly SequenceRange[];
}

/** Compares what was sent with what one report or several say; throws if nothing was, since then all would seem well. */
export function union(
  reports: { readonly receivers: readonly Streams[] } | readonly { readonly receivers: readonly Streams[] }[],
  sent: { readonly streams: readonly SentStream[] },
): Union {
  if (sent.streams.every(({ count }) => count === 0)) throw new Error('nothing was sent: there is nothing to compare');
  const tallies = [reports].flat().flatMap(({ receivers }) => receivers.flatMap(({ streams }) => streams));
  const missing: SequenceRange[] = [];
  const duplicated: SequenceRange[] = [];
  let received = 0;
  for (const { stream, count } of sent.streams) {
    const times = arrivals(
      tallies.filter((tally) => tally.stream === stream),
      count,
    );
    received += times.subarray(0, count).filter((each) => each > 0).length;
    missing.push(...ranges(stream, times, (each) => each === 0));
    duplicated.push(...ranges(stream, times, (each) => each > 1));
  }
  return { received, missing, duplicated };
}

interface Streams {
  readonly streams: readonly StreamTally[];
}

/** How often each sequence number came. */
function arrivals(tallies: readonly StreamTally[], count: number): Uint8Array {
  const times = new Uint8Array(Math.max(count, ...tallies.map(({ highest }) => highest + 1)));
  // A number that nobody sent is as wrong as one that came twice.
  times.fill(1, count);
  for (const bits of tallies.flatMap(({ seen, again }) => [seen, again]).map((text) => Buffer.from(text, 'base64'))) {
    for (const [at, byte] of bits.entries()) {
      for (let bit = 0; byte >> bit !== 0; bit++) {
        if ((byte >> bit) & 1) times[at * 8 + bit]! += times[at * 8 + bit]! < 255 ? 1 : 0;
      }
    }
  }
  return times;
}

function ranges(stream: number, times: Uint8Array, wanted: (times: number) => boolean): SequenceRange[] {
  const found: { stream: number; first: number; last: number }[] = [];
  for (const [sequence, each] of times.entries()) {
    if (!wanted(each)) continue;
    const open = found.at(-1);
    if (open?.last === sequence - 1) open.last = sequence;
    else found.push({ stream, first: sequence, last: sequence });
  }
  return found;
}
