/** What the rules ask of texts that the schema has taken. */
import type { SocketAddress } from '../address.ts';
import { readAddress } from './address-text.ts';

/** The address in a text that the schema has taken. */
export function addressOf(text: string | undefined): SocketAddress | undefined {
  const address = text === undefined ? undefined : readAddress(text);
  return typeof address === 'string' ? undefined : address;
}

/** The places whose text stands at an earlier place too, each with the first such place. */
export function repeats(
  texts: readonly (string | undefined)[],
): readonly { readonly index: number; readonly first: number; readonly text: string }[] {
  const seen = new Map<string, number>();
  return texts.flatMap((text, index) => {
    if (text === undefined) return [];
    const first = seen.get(text);
    if (first === undefined) seen.set(text, index);
    return first === undefined ? [] : [{ index, first, text }];
  });
}
