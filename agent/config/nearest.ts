/** Finds what somebody probably meant to write. */

/** The known word nearest to `word`, or undefined if none is near enough to be meant. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const wanted = fold(word);
  let best: { text: string; distance: number } | undefined;
  for (const text of known) {
    const candidate = fold(text);
    const distance = editDistance(wanted, candidate);
    // A third of the letters: "intrface" is meant, "port" for "bind" is not. A beginning ("warning", "if") is too.
    const near = distance <= Math.max(1, Math.floor(Math.max(wanted.length, candidate.length) / 3));
    if ((near || isBeginning(wanted, candidate)) && (!best || distance < best.distance)) best = { text, distance };
  }
  return best?.text;
}

/** True for the same word in another style: `maxPacketSize` and `max_packet_size`. */
export function isSameWord(a: string, b: string): boolean {
  return fold(a) === fold(b);
}

/** Writes `a, b or c`. */
export function orList(words: readonly string[]): string {
  return words.length < 2 ? words.join() : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`;
}

// `maxPacketSize`, `max-packet-size` and `MAX_PACKET_SIZE` are the same word to people. A key over 64 letters is none of
// ours, and the cut keeps a hostile key from costing its square.
function fold(word: string): string {
  return word
    .slice(0, 64)
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]/gu, '');
}

function isBeginning(a: string, b: string): boolean {
  return Math.min(a.length, b.length) >= 3 && (a.startsWith(b) || b.startsWith(a));
}

/** Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours each cost 1. */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      row[j] = Math.min(
        last[j]! + 1,
        row[j - 1]! + 1,
        last[j - 1]! + (same ? 0 : 1),
        swapped ? beforeLast[j - 2]! + 1 : Number.POSITIVE_INFINITY,
      );
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length]!;
}
