/** Everything that an API server, or the way to it, does to a client, under a name that the metrics and the log use. */

export const CAUSES = [
  'credentials',
  'unreachable',
  'reset',
  'timeout',
  'stalled',
  'ended_early',
  'unauthorized',
  'forbidden',
  'not_found',
  'gone',
  'lost_history',
  'throttled',
  'server_error',
  'malformed',
] as const;
export type Cause = (typeof CAUSES)[number];

/** A list or watch that failed; the message says what happened, in one line. */
export class ApiFailure extends Error {
  override readonly name = 'ApiFailure';
  readonly reason: Cause;
  /** What the server asks us to wait (Retry-After, RFC 9110, 10.2.3). */
  readonly retryAfterMs: number;

  constructor(reason: Cause, message: string, options: ErrorOptions & { retryAfterMs?: number } = {}) {
    super(message, options);
    this.reason = reason;
    this.retryAfterMs = options.retryAfterMs ?? 0;
  }
}

/** The Status object of the API (meta/v1), as far as we read it. */
export interface Status {
  readonly code?: number;
  readonly message?: string;
  readonly details?: { readonly retryAfterSeconds?: number };
}

/** The failure that an HTTP status, or the code of a Status in an ERROR event, stands for. */
export function failureOf(code: number, { message, details }: Status, retryAfterMs = 0): ApiFailure {
  const asked = (details?.retryAfterSeconds ?? 0) * 1000;
  const words = `${code}${message ? ` ${message.slice(0, 500)}` : ''}`;
  return new ApiFailure(reasonOf(code), words, { retryAfterMs: Math.max(retryAfterMs, asked) });
}

function reasonOf(code: number): Cause {
  switch (code) {
    case 401:
      return 'unauthorized';
    case 403:
      return 'forbidden';
    case 404:
      return 'not_found';
    case 410:
      return 'gone';
    case 429:
      return 'throttled';
    case 504:
      return 'timeout';
    default:
      return 'server_error';
  }
}

/** Milliseconds in a Retry-After header: seconds, or a date. 0 where it says nothing that can be read. */
export function retryAfter(header: string | undefined, now = Date.now()): number {
  if (header === undefined) return 0;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - now;
  return Number.isFinite(ms) && ms > 0 ? ms : 0;
}
