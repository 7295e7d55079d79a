/** The kinds of value that a config holds, as zod schemas whose messages say what is wanted. */
import * as z from 'zod';
import type { SocketAddress } from '../address.ts';
import { readAddress, WANT_ADDRESS } from './address-text.ts';
import { orList } from './nearest.ts';

// Every message is what follows `path value: `; `explain.ts` writes the path, the value and what was found.
type Wanted = (issue: { readonly input?: unknown }) => string;

/** A number in quotes is text to YAML; the message says so. */
export function wantNumber(want: string): Wanted {
  return ({ input }) =>
    typeof input === 'string' && /^\s*[-+]?\d+(\.\d+)?\s*$/.test(input)
      ? want.replace('number', 'number without quotes')
      : want;
}

function wantText(want: string): Wanted {
  return ({ input }) => {
    if (typeof input === 'number' || typeof input === 'boolean')
      return `found a ${typeof input}, want text in quotes: ${want}`;
    return `want ${want}`;
  };
}

/** An integer in a closed range. */
export function wholeNumber(min: number, max: number) {
  const error = wantNumber(`want a whole number from ${min} to ${max}`);
  return z.int({ error }).min(min, { error }).max(max, { error });
}

/** A YAML 1.2 boolean: `yes` and `on` are text. */
export function trueOrFalse() {
  return z.boolean({ error: 'want true or false, without quotes' });
}

/** One of a few words. */
export function choice<const T extends readonly [string, ...string[]]>(words: T) {
  return z.enum(words, { error: `want ${orList(words)}` });
}

/** Text of a form; `want` describes the form. */
export function pattern(expression: RegExp, want: string) {
  const error = wantText(want);
  return z.string({ error }).regex(expression, { error });
}

/** A map with these keys and no others. */
export function section<T extends z.core.$ZodLooseShape>(shape: T) {
  return z.strictObject(shape, { error: `want a map with the keys ${Object.keys(shape).join(', ')}` });
}

/** "IP:port" text in, SocketAddress out. */
export function address(refuse: (address: SocketAddress) => string | undefined) {
  return z
    .string({ error: ({ input }) => (typeof input === 'number' ? `found a number, ${WANT_ADDRESS}` : WANT_ADDRESS) })
    .transform((text, context) => {
      const read = readAddress(text);
      const message = typeof read === 'string' ? read : refuse(read);
      if (typeof read !== 'string' && message === undefined) return read;
      context.issues.push({ code: 'custom', message: message ?? '', input: text });
      return z.NEVER;
    });
}

/** 1 to 15 bytes and what `dev_valid_name` in net/core/dev.c takes: a dot in it is usual (`ens3.100`). */
export function interfaceName() {
  const want = 'a Linux interface name such as eth0: 1 to 15 bytes, no "/", ":" or space, not "." or ".."';
  const error: Wanted = (issue) =>
    Array.isArray(issue.input) ? 'want one name here, several under interfaces' : wantText(want)(issue);
  return z
    .string({ error })
    .regex(/^(?!\.{1,2}$)[^\s/:\p{Cc}]{1,15}$/u, { error })
    .refine((name) => Buffer.byteLength(name) <= 15, { error });
}

/** A label of RFC 1123, as Kubernetes names Services and namespaces; it takes RFC 1035's too. */
export function dnsLabel() {
  return pattern(
    /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/,
    '1 to 63 lowercase letters, digits and "-", the first and last no "-"',
  );
}

/** A port by number or by the name it has in the EndpointSlice (RFC 6335, 5.1). */
export function servicePort() {
  const want =
    'want a number from 1 to 65535 or a port name: up to 15 lowercase letters, digits and single "-", a letter among them';
  const error = wantNumber(want);
  const number = z.int({ error }).min(1, { error }).max(65535, { error });
  const name = z.string({ error }).regex(/^(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*$/, { error });
  return z.union([number, name], { error });
}
