/** How a downstream is asked whether it lives: what every protocol has in common. */
import type { SocketAddress } from '../address.ts';

/** What speaks against a downstream and proves nothing: it makes the next probe come at once. */
export const HINTS = ['port_unreachable', 'host_unreachable', 'wrong_answer'] as const;
export type Hint = (typeof HINTS)[number];

/** Told of one probe. Any may be called before `send` has returned; none after the probe was forgotten. */
export interface ProbeCallbacks {
  /** The right answer came from the address asked; once at most. */
  answer(): void;
  /** What was asked is not there, says who must know; where that is no proof, it is a hint instead. */
  refused(hint: Hint): void;
  /** The probe never left this host. */
  unsent(cause: string): void;
}

export interface Prober {
  /** Addresses with one key are asked once: the answer speaks for all of them. */
  keyOf(address: SocketAddress): string;
  /** Sends one probe. The function returned forgets it: an answer after that is late and ignored. */
  send(address: SocketAddress, callbacks: ProbeCallbacks): () => void;
  /** Nobody asks this address any more. */
  release(address: SocketAddress): void;
  close(): void;
}

export type OnHint = (address: SocketAddress, hint: Hint) => void;
export type OpenProber = (onHint: OnHint) => Prober;

/** This machine cannot probe at all; the message says why and what mends it. */
export class ProberUnavailable extends Error {
  override readonly name = 'ProberUnavailable';
}
