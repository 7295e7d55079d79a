/**
 * Program: the fake API server in a namespace of its own process, told what to do line by line on standard input. Ends
 * with its input.
 */
import { createInterface } from 'node:readline';
import { churn } from './churn.ts';
import { FakeApi, type FakeApiOptions } from './server.ts';

/** The calls that a script may make from outside; each takes and returns plain data. */
export type Call = 'start' | 'stop' | 'apply' | 'remove' | 'fail' | 'deny' | 'churn';

/** A line on standard input. */
export interface ApiCommand {
  readonly call: Call;
  readonly args: readonly unknown[];
}

/** A line on standard output: after the start, and after each command. */
export interface ApiAnswer {
  readonly url: string;
  /** When the command began, in milliseconds since 1970. */
  readonly at: number;
}

const api = new FakeApi(JSON.parse(process.argv[2]!) as FakeApiOptions);
const calls: Readonly<Record<Call, (...args: never[]) => unknown>> = {
  start: () => api.start(),
  stop: () => api.stop(),
  apply: (...args: Parameters<FakeApi['apply']>) => api.apply(...args),
  remove: (...args: Parameters<FakeApi['remove']>) => api.remove(...args),
  fail: (...args: Parameters<FakeApi['fail']>) => api.fail(...args),
  deny: (...args: Parameters<FakeApi['access']['deny']>) => api.access.deny(...args),
  churn: (changes: Parameters<typeof churn>[1]) => churn(api, changes),
};

await api.start();
print(now());
for await (const line of createInterface({ input: process.stdin })) {
  const { call, args } = JSON.parse(line) as ApiCommand;
  const at = now();
  await calls[call](...(args as never[]));
  print(at);
}
process.exit(0);

function now(): number {
  return performance.timeOrigin + performance.now();
}

function print(at: number): void {
  const answer: ApiAnswer = { url: api.url, at };
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
